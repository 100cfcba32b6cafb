// node.mjs put|get CONCURRENCY DIRECTORY/ PREFIX: many small objects by AWS's SDK for JavaScript.
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";

const [way, concurrency, directory, prefix] = process.argv.slice(2);
const Bucket = process.env.S3_BUCKET;
const client = new S3Client({
  endpoint: process.env.S3_ENDPOINT, region: "us-east-1", forcePathStyle: true,
  requestChecksumCalculation: "WHEN_REQUIRED", responseChecksumValidation: "WHEN_REQUIRED",
});

async function keys() {
  const found = [];
  let ContinuationToken;
  do {
    const page = await client.send(new ListObjectsV2Command({ Bucket, Prefix: prefix, ContinuationToken }));
    for (const object of page.Contents ?? []) found.push(object.Key.slice(prefix.length));
    ContinuationToken = page.NextContinuationToken;
  } while (ContinuationToken);
  return found;
}

async function move(name) {
  const Key = prefix + name;
  if (way === "put") {
    await client.send(new PutObjectCommand({ Bucket, Key, Body: await readFile(directory + name) }));
  } else {
    const answer = await client.send(new GetObjectCommand({ Bucket, Key }));
    await writeFile(directory + name, await answer.Body.transformToByteArray());
  }
}

if (way === "get") await mkdir(directory, { recursive: true });
const names = way === "put" ? await readdir(directory) : await keys();
await Promise.all(Array.from({ length: Number(concurrency) }, async () => {
  while (names.length > 0) await move(names.pop());
}));
