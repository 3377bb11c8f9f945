// The hash tree over tokens (RFC 9162, H4MK 11.1, 22.1), by WebCrypto.

import { equal, need } from "./h4mk.js";
import { join, sha256, subtle } from "./masking.js";

const nodeHash = (left, right) => sha256(join(Uint8Array.of(1), left, right));

/**
 * The leaf of a token: SHA-256 over a zero byte and the 128 bytes of TOKN (H4MK 11.1).
 *
 * @param {Uint8Array} token
 * @returns {Promise<Uint8Array>} 32 bytes
 */
export async function leafHash(token) {
  subtle("check");
  return sha256(join(Uint8Array.of(0), token));
}

/**
 * Prove that a leaf stands in a tree (RFC 9162 2.1.3.2). The root must be one that is trusted.
 *
 * @param {Uint8Array} leaf the leaf's hash, 32 bytes
 * @param {number} index its place, from 0
 * @param {number} size leaves in the tree
 * @param {Uint8Array[]} path hashes from the leaf's neighbour upwards
 * @param {Uint8Array} root 32 bytes
 * @throws {Harmony4Error} `usage`: an index that is none; `seal`: it does not stand there, or the path has another length than it must
 */
export async function verifyInclusion(leaf, index, size, path, root) {
  subtle("check");
  need(Number.isSafeInteger(size) && Number.isSafeInteger(index) && 0 <= index && index < size, "usage", "the leaf is not one of the tree");
  need([leaf, root, ...path].every((one) => one instanceof Uint8Array && one.length === 32), "usage", "a hash has 32 bytes");
  let [from, last, node] = [index, size - 1, leaf];
  for (const other of path) {
    need(last > 0, "seal", "the proof is too long");
    if (from % 2 || from === last) {
      node = await nodeHash(other, node);
      while (from % 2 === 0 && from !== 0) {
        from /= 2;
        last = Math.floor(last / 2);
      }
    } else node = await nodeHash(node, other);
    from = Math.floor(from / 2);
    last = Math.floor(last / 2);
  }
  need(last === 0, "seal", "the proof is too short");
  need(equal(node, root), "seal", "the leaf does not stand in this tree");
}

/**
 * The root of a tree of `size` leaves that has these, with `path` as its other nodes (H4MK 22.1).
 *
 * @param {Map<number, Uint8Array>} leaves number: hash, in order of the numbers
 * @param {number} size
 * @param {Uint8Array[]} path exactly the nodes that must be there
 * @returns {Promise<Uint8Array>}
 * @throws {Harmony4Error} `seal`
 */
export async function inclusionRoot(leaves, size, path) {
  need(leaves.size > 0 && [...leaves.keys()].every((leaf) => leaf < size), "seal", "a leaf is not in the tree");
  let [known, used, width] = [leaves, 0, size];
  while (width > 1) {
    const above = new Map();
    for (const [index, node] of known) {
      const [sibling, parent] = [index % 2 ? index - 1 : index + 1, Math.floor(index / 2)];
      if (sibling >= width) above.set(parent, node);
      else if (!known.has(sibling)) {
        need(used < path.length, "seal", "the proof is too short");
        const other = path[used];
        used += 1;
        above.set(parent, await (index % 2 ? nodeHash(other, node) : nodeHash(node, other)));
      } else if (index % 2 === 0) above.set(parent, await nodeHash(node, known.get(sibling)));
    }
    known = above;
    width = Math.ceil(width / 2);
  }
  need(used === path.length, "seal", "the proof is too long");
  return known.get(0);
}
