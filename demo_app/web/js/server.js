// Talking to edgepack serve: bytes that it vouches for, and posts that it asked for.

/** What the server says instead of an answer, as an error. */
export class Refused extends Error {}

async function checked(response) {
  if (response.ok) return response;
  let words = `the server answers ${response.status}`;
  try {
    words = (await response.json()).refused ?? words;
  } catch {
    // No words of ours: the status is all there is.
  }
  throw new Refused(words);
}

/** The bytes at an address. */
export async function bytes(path) {
  return new Uint8Array(await (await checked(await fetch(path))).arrayBuffer());
}

/** Post JSON; the reply. */
export async function post(path, message) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(message) });
  return (await checked(response)).json();
}

/** An artifact of the pack; refused when its digest is not the pack's (browsers compute digests for secure origins alone). */
export async function artifact(subject) {
  const content = await bytes(`/artifacts/${subject.sha256}`);
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== subject.sha256) throw new Refused(`${subject.file} did not arrive as it was verified: its digest differs`);
  }
  return content;
}

/** The memory of a typed array as base64. */
export function base64(array) {
  const held = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const parts = [];
  // Arguments of one call have a limit, some 65,000 in the strictest engine.
  for (let at = 0; at < held.length; at += 0x8000) parts.push(String.fromCharCode(...held.subarray(at, at + 0x8000)));
  return btoa(parts.join(""));
}
