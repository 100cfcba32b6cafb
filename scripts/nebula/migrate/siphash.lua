-- migrate/siphash.lua: SipHash-1-3, the keyed hash of refinery's checksums.
--
-- After J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF" (2012), with one round
-- for each word and three at the end, as Rust's SipHasher13. Lua's integers are the 64-bit words.
local siphash = {}

local function rotated(x, bits) return x << bits | x >> (64 - bits) end

local function round(v0, v1, v2, v3)
  v0 = v0 + v1
  v1 = rotated(v1, 13) ~ v0
  v0 = rotated(v0, 32)
  v2 = v2 + v3
  v3 = rotated(v3, 16) ~ v2
  v0 = v0 + v3
  v3 = rotated(v3, 21) ~ v0
  v2 = v2 + v1
  v1 = rotated(v1, 17) ~ v2
  v2 = rotated(v2, 32)
  return v0, v1, v2, v3
end

--- The hash of a text under the key (k0, k1), as an integer of 64 bits.
---@param text string
---@param k0? integer (0)
---@param k1? integer (0)
---@return integer
function siphash.sum(text, k0, k1)
  k0, k1 = k0 or 0, k1 or 0
  local v0, v1 = 0x736f6d6570736575 ~ k0, 0x646f72616e646f6d ~ k1
  local v2, v3 = 0x6c7967656e657261 ~ k0, 0x7465646279746573 ~ k1
  local whole = #text - #text % 8
  for at = 1, whole, 8 do
    local word = string.unpack("<i8", text, at)
    v0, v1, v2, v3 = round(v0, v1, v2, v3 ~ word)
    v0 = v0 ~ word
  end
  local last = #text << 56
  for i = 1, #text - whole do last = last | text:byte(whole + i) << (8 * (i - 1)) end
  v0, v1, v2, v3 = round(v0, v1, v2, v3 ~ last)
  v0, v2 = v0 ~ last, v2 ~ 0xff
  for _ = 1, 3 do v0, v1, v2, v3 = round(v0, v1, v2, v3) end
  return v0 ~ v1 ~ v2 ~ v3
end

--- The decimal text of those 64 bits, unsigned.
---@param sum integer
---@return string
function siphash.decimal(sum)
  if sum >= 0 then return tostring(sum) end
  local tens = (sum >> 1) // 5 -- of the unsigned value, which is at least 2^63
  return tostring(tens) .. tostring(sum - tens * 10)
end

return siphash
