// Dropout's random bits: Philox-4x64 with ten rounds, the generator of random.py, to the last bit. Sixteen bits decide
// an element, so that a block of the generator, four words of 64 bits, decides sixteen. A row, that is all that belongs
// to one text, begins at a whole block.
typedef unsigned long long word;

struct Dropout {
  word seed, layer, step, first_block, blocks_of_a_row;
  int drop;  // of 65536 values, how many mean "drop"; 0: no dropout
};

__device__ __forceinline__ word high_product(word a, word b) {  // the upper 64 bits of 128
  word a0 = (unsigned)a, a1 = a >> 32, b0 = (unsigned)b, b1 = b >> 32;
  word middle = a1 * b0 + ((a0 * b0) >> 32), low = (unsigned)middle + a0 * b1;
  return a1 * b1 + (middle >> 32) + (low >> 32);
}

// Which of the 16 elements of a block are kept, as bits.
__device__ __forceinline__ unsigned kept_bits(Dropout d, word block) {
  // NumPy raises the counter before it uses it
  word c0 = block + 1, c1 = d.step + (c0 == 0), c2 = 0, c3 = 0, k0 = d.seed, k1 = d.layer;
  for (int round = 0; round < 10; round++) {
    word h0 = high_product(0xD2E7470EE14C6C93ULL, c0), l0 = 0xD2E7470EE14C6C93ULL * c0;
    word h1 = high_product(0xCA5A826395121157ULL, c2), l1 = 0xCA5A826395121157ULL * c2;
    c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
    k0 += 0x9E3779B97F4A7C15ULL, k1 += 0xBB67AE8584CAA73BULL;
  }
  word out[4] = {c0, c1, c2, c3};
  unsigned bits = 0;
  for (int e = 0; e < 16; e++) bits |= (unsigned)((int)((out[e / 4] >> (16 * (e % 4))) & 0xffff) >= d.drop) << e;
  return bits;
}
