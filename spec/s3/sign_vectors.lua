-- sign_vectors.lua: the SigV4 signatures that AWS publishes, as data: the test suite of its signing
-- library (awslabs/aws-c-auth, tests/aws-signing-test-suite/v4; before that "AWS Signature Version 4
-- Test Suite" of the General Reference) and the examples of the S3 API Reference, "Authenticating
-- Requests".

local HOST = { "Host", "example.amazonaws.com" }
local UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
local SHORT_TOKEN = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
local LONG_TOKEN = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeo"
  .. "IYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDv"
  .. "p75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9"
  .. "FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
local VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"

-- name, path and query, the signature in the header form, the one in the query form (or nil); then
-- what differs from GET, the Host header and a normalised path.
local suite = {
  { "get-vanilla", "/", VANILLA, "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d" },
  { "get-vanilla-empty-query-key", "/?Param1=value1",
    "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb" },
  { "get-vanilla-query-order-key-case", "/?Param2=value2&Param1=value1",
    "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500" },
  { "get-vanilla-query-order-encoded", "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
    "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
    "c5f1848ceec943ac2ca68ee720460c23aaae30a2300586597ada94c4a65e4787" },
  { "get-vanilla-query-unreserved", "/?" .. UNRESERVED .. "=" .. UNRESERVED,
    "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197" },
  { "get-vanilla-utf8-query", "/?ሴ=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    "0bdd809b1519ac4f0c1dc3540e2cc46bd0c7f778eda408b2ebf3b913d21ff600" },
  { "get-utf8", "/ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
    "10eae3f14a260bd3911cc6d008d3c576d143b05b62f09782a7a4b37f52178e44" },
  { "get-unreserved", "/" .. UNRESERVED, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f" },
  { "get-space-normalized", "/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741" },
  { "get-space-unnormalized", "/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    normalize_path = false },
  { "get-relative-normalized", "/example/..", VANILLA },
  { "get-relative-unnormalized", "/example/..",
    "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282", normalize_path = false },
  { "get-relative-relative-normalized", "/example1/example2/../..", VANILLA },
  { "get-relative-relative-unnormalized", "/example1/example2/../..",
    "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b", normalize_path = false },
  { "get-slash-normalized", "//", VANILLA },
  { "get-slash-unnormalized", "//", "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e",
    normalize_path = false },
  { "get-slash-dot-slash-normalized", "/./", VANILLA },
  { "get-slash-dot-slash-unnormalized", "/./",
    "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145", normalize_path = false },
  { "get-slash-pointless-dot-normalized", "/./example",
    "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5" },
  { "get-slash-pointless-dot-unnormalized", "/./example",
    "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff", normalize_path = false },
  { "get-slashes-normalized", "//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84" },
  { "get-slashes-unnormalized", "//example//", "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5",
    normalize_path = false },
  { "get-header-key-duplicate", "/", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    "3349ee0b81b4b589da0ff28a395c3591e04de515651dd74f298fa992d1507a97",
    headers = { HOST, { "My-Header1", "value2" }, { "My-Header1", "value2" }, { "My-Header1", "value1" } } },
  { "get-header-value-multiline", "/", "ba17b383a53190154eb5fa66a1b836cc297cc0a3d70a5d00705980573d8ff790",
    headers = { HOST, { "My-Header1", "value1" }, { "My-Header1", "value2" }, { "My-Header1", "value3" } } },
  { "get-header-value-multiline, folded", "/", "ba17b383a53190154eb5fa66a1b836cc297cc0a3d70a5d00705980573d8ff790",
    "07f38a7bae261a5b2eec137361e6403c191bbf8e3f75466bb8114a08acd99936",
    headers = { HOST, { "My-Header1", "value1\n  value2\n     value3" } } },
  { "get-header-value-order", "/", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    headers = { HOST, { "My-Header1", "value4" }, { "My-Header1", "value1" }, { "My-Header1", "value3" },
      { "My-Header1", "value2" } } },
  { "get-header-value-trim", "/", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    "e7bb0fd515e125e1aec2ecc4c0c17484fb06f6846b927c35e46005dd3df3acd4",
    headers = { HOST, { "My-Header1", " value1" }, { "My-Header2", ' "a   b   c"' } } },
  { "get-vanilla-with-session-token", "/", "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
    "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c", session_token = SHORT_TOKEN },
  { "post-vanilla", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", method = "POST" },
  { "post-sts-header-before", "/", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    method = "POST", session_token = LONG_TOKEN },
  { "post-sts-header-before, the token among the request's headers", "/",
    "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    "aca67b49ed321f377645504bccbd5a65f9085c536ff1961bc49c835d30827b16",
    method = "POST", headers = { HOST, { "X-Amz-Security-Token", LONG_TOKEN } } },
  { "post-sts-header-after", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    method = "POST", session_token = LONG_TOKEN, omit_session_token = true },
  { "post-x-www-form-urlencoded", "/", "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
    "c2348f57d08c84939944d6c878b3f7be56316f8e7fd6817e81eded279a362d69",
    method = "POST", body = "Param1=value1", sign_body = true,
    headers = { { "Content-Type", "application/x-www-form-urlencoded" }, HOST, { "Content-Length", "13" } } },
  { "post-x-www-form-urlencoded-parameters", "/",
    "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
    "1b8d9ac4ab8553a224622753bae7714608a7c61f8994dbd385150e6da12114df",
    method = "POST", body = "Param1=value1", sign_body = true,
    headers = { { "Content-Type", "application/x-www-form-urlencoded; charset=utf-8" }, HOST,
      { "Content-Length", "13" } } },
}

-- The S3 API Reference: name, what is signed, the signature.
local s3 = {
  { "GET object with a range", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    { url = "https://examplebucket.s3.amazonaws.com/test.txt", headers = { { "Range", "bytes=0-9" } } } },
  { "PUT object", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    { method = "PUT", url = "https://examplebucket.s3.amazonaws.com/test$file.text", body = "Welcome to Amazon S3.",
      headers = { { "Date", "Fri, 24 May 2013 00:00:00 GMT" }, { "x-amz-storage-class", "REDUCED_REDUNDANCY" } } } },
  { "GET bucket lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    { url = "https://examplebucket.s3.amazonaws.com/?lifecycle" } },
  { "GET bucket, a list of objects", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    { url = "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J" } },
  { "a presigned GET", "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
    { url = "https://examplebucket.s3.amazonaws.com/test.txt", query = true, expires = 86400 } },
}

return { suite = suite, s3 = s3, host = HOST }
