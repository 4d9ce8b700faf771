// Scaled dot-product attention with a running softmax: no table of scores is ever stored, forward or backward.
//
// A thread owns one query (or, for the gradients of keys and values, one key) of one head, and keeps its vectors in
// registers; the block brings the other side into shared memory, TILE rows at a time, where all its threads read it.
// q, k, v and what becomes of them have any strides but that of the last axis, which is 1: heads lie in memory as the
// projections left them.
#include "number.cuh"
#include "philox.cuh"
#ifndef WIDTH
#define WIDTH 16  // numbers of a query and of a key
#endif
#ifndef WIDTH_V
#define WIDTH_V 16  // of a value
#endif
#define TILE 32     // rows of the other side in shared memory
#define THREADS 64  // rows of our side in a block

// Where a matrix of a (batch, head) begins, and how far its rows are apart.
struct Place {
  long long batch, head, row;
};
__device__ __forceinline__ long long start(Place p, int b, int h) { return b * p.batch + h * p.head; }

// Who may attend to whom. `allowed` (booleans) or `added` (numbers), each with strides, or null; causal: key <= query.
struct Mask {
  const bool* allowed;
  const number* added;
  long long batch, head, row, column;
  int causal;
};
// The score as the mask leaves it: -inf where nobody may look.
__device__ __forceinline__ number masked(number score, Mask m, int b, int h, int i, int j) {
  long long at = b * m.batch + h * m.head + i * m.row + j * m.column;
  bool forbidden = (m.causal && j > i) || (m.allowed && !m.allowed[at]);
  return forbidden ? -INFINITY : m.added ? score + m.added[at] : score;
}

// The bits of the next elements of a row of scores, one after another.
struct Bits {
  word block;
  unsigned bits;
  __device__ __forceinline__ bool at(Dropout d, int b, word element) {
    word wanted = d.first_block + b * d.blocks_of_a_row + element / 16;
    if (wanted != block) bits = kept_bits(d, block = wanted);
    return bits >> (element % 16) & 1;
  }
};
#define NO_BLOCK 0xffffffffffffffffULL

// A tile of rows into shared memory, zeros beyond the end. All threads of the block take part.
template <int W>
__device__ __forceinline__ void fetch(number (*tile)[W], const number* from, long long stride, int first, int end) {
  for (int k = threadIdx.x; k < TILE * W; k += THREADS) {
    int r = k / W, d = k % W;
    tile[r][d] = first + r < end ? from[(first + r) * stride + d] : number(0);
  }
}

// y = softmax(q kᵀ scale, masked) v; kept elements of the softmax grow by `grow`. sums (B, h, Tq): the logarithm of each
// softmax's sum, which is all that the way back needs; -inf for a query that may not attend to anything, whose y is 0.
// Grid: (ceil(Tq / THREADS), h, B).
extern "C" __global__ void __launch_bounds__(THREADS)
attention(const number* __restrict__ q, const number* __restrict__ k, const number* __restrict__ v,
          number* __restrict__ y, number* __restrict__ sums, const Place at_q, const Place at_k, const Place at_v,
          const Place at_y, const Mask mask, const Dropout dropout, number scale, number grow, int Tq, int Tk) {
  __shared__ number keys[TILE][WIDTH], values[TILE][WIDTH_V];
  int i = blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y, b = blockIdx.z, heads = gridDim.y;
  number query[WIDTH], out[WIDTH_V], top = -INFINITY, sum = 0;
  for (int d = 0; d < WIDTH; d++) query[d] = i < Tq ? q[start(at_q, b, h) + i * at_q.row + d] * scale : number(0);
  for (int d = 0; d < WIDTH_V; d++) out[d] = 0;
  Bits kept = {NO_BLOCK, 0};
  int end = mask.causal ? min(Tk, (int)(blockIdx.x + 1) * THREADS) : Tk;  // no query of the block looks further
  for (int first = 0; first < end; first += TILE) {
    __syncthreads();  // all are done with the last tile
    fetch<WIDTH>(keys, k + start(at_k, b, h), at_k.row, first, Tk);
    fetch<WIDTH_V>(values, v + start(at_v, b, h), at_v.row, first, Tk);
    __syncthreads();
    if (i >= Tq) continue;
    number scores[TILE], highest = top;
    for (int j = 0; j < TILE; j++) {
      number score = 0;
      for (int d = 0; d < WIDTH; d++) score += query[d] * keys[j][d];
      scores[j] = first + j < Tk ? masked(score, mask, b, h, i, first + j) : -INFINITY;
      if (scores[j] > highest || isnan(scores[j])) highest = scores[j];  // max() would pass over a NaN
    }
    if (highest == -INFINITY) continue;  // nobody to attend to so far
    number shrink = exp(top - highest);
    top = highest, sum *= shrink;
    for (int d = 0; d < WIDTH_V; d++) out[d] *= shrink;
    for (int j = 0; j < TILE; j++) {
      number p = exp(scores[j] - top);
      sum += p;
      if (dropout.drop && first + j < Tk && !kept.at(dropout, b, ((word)h * Tq + i) * Tk + first + j)) p = 0;
      for (int d = 0; d < WIDTH_V; d++) out[d] += p * values[j][d];
    }
  }
  if (i >= Tq) return;
  number inverse = sum == 0 ? number(0) : grow / sum;
  for (int d = 0; d < WIDTH_V; d++) y[start(at_y, b, h) + i * at_y.row + d] = out[d] * inverse;
  sums[((long long)b * heads + h) * Tq + i] = sum == 0 ? -INFINITY : top + log(sum);
}

// dq, and along (B, h, Tq): ⟨g, y⟩, which is Σ_j dp_j p_j. at_d: where dq lies. Grid as above.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_dq(const number* __restrict__ q, const number* __restrict__ k, const number* __restrict__ v,
             const number* __restrict__ y, const number* __restrict__ g, const number* __restrict__ sums,
             number* __restrict__ dq, number* __restrict__ along, const Place at_q, const Place at_k, const Place at_v,
             const Place at_y, const Place at_g, const Place at_d, const Mask mask, const Dropout dropout,
             number scale, number grow, int Tq, int Tk) {
  __shared__ number keys[TILE][WIDTH], values[TILE][WIDTH_V];
  int i = blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y, b = blockIdx.z, heads = gridDim.y;
  number query[WIDTH], slope[WIDTH_V], out[WIDTH], log_sum = -INFINITY, mean = 0;
  for (int d = 0; d < WIDTH; d++) {
    query[d] = i < Tq ? q[start(at_q, b, h) + i * at_q.row + d] * scale : number(0);
    out[d] = 0;
  }
  for (int d = 0; d < WIDTH_V; d++) {
    slope[d] = i < Tq ? g[start(at_g, b, h) + i * at_g.row + d] : number(0);
    if (i < Tq) mean += slope[d] * y[start(at_y, b, h) + i * at_y.row + d];
  }
  long long row = ((long long)b * heads + h) * Tq + i;
  if (i < Tq) log_sum = sums[row], along[row] = mean;
  Bits kept = {NO_BLOCK, 0};
  int end = mask.causal ? min(Tk, (int)(blockIdx.x + 1) * THREADS) : Tk;
  for (int first = 0; first < end; first += TILE) {
    __syncthreads();
    fetch<WIDTH>(keys, k + start(at_k, b, h), at_k.row, first, Tk);
    fetch<WIDTH_V>(values, v + start(at_v, b, h), at_v.row, first, Tk);
    __syncthreads();
    if (i >= Tq || log_sum == -INFINITY) continue;
    for (int j = 0; j < TILE && first + j < Tk; j++) {
      number score = 0, dp = 0;
      for (int d = 0; d < WIDTH; d++) score += query[d] * keys[j][d];
      number p = exp(masked(score, mask, b, h, i, first + j) - log_sum);
      for (int d = 0; d < WIDTH_V; d++) dp += slope[d] * values[j][d];
      dp *= grow;
      if (dropout.drop && !kept.at(dropout, b, ((word)h * Tq + i) * Tk + first + j)) dp = 0;
      number ds = p * (dp - mean);
      for (int d = 0; d < WIDTH; d++) out[d] += ds * keys[j][d];
    }
  }
  if (i >= Tq) return;
  for (int d = 0; d < WIDTH; d++) dq[start(at_d, b, h) + i * at_d.row + d] = out[d] * scale;
}

// dk and dv, one thread a key. Grid: (ceil(Tk / THREADS), h, B).
extern "C" __global__ void __launch_bounds__(THREADS)
attention_dkv(const number* __restrict__ q, const number* __restrict__ k, const number* __restrict__ v,
              const number* __restrict__ g, const number* __restrict__ sums, const number* __restrict__ along,
              number* __restrict__ dk, number* __restrict__ dv, const Place at_q, const Place at_k, const Place at_v,
              const Place at_g, const Place at_dk, const Place at_dv, const Mask mask, const Dropout dropout,
              number scale, number grow, int Tq, int Tk) {
  const int GROUPS = THREADS / 16 + 1;  // blocks of the generator that a query's row of our keys touches
  __shared__ number queries[TILE][WIDTH], slopes[TILE][WIDTH_V], log_sums[TILE], means[TILE];
  __shared__ unsigned bits[TILE][GROUPS];
  int ours = blockIdx.x * THREADS, j = ours + threadIdx.x, h = blockIdx.y, b = blockIdx.z, heads = gridDim.y;
  number key[WIDTH], value[WIDTH_V], out_k[WIDTH], out_v[WIDTH_V];
  for (int d = 0; d < WIDTH; d++) {
    key[d] = j < Tk ? k[start(at_k, b, h) + j * at_k.row + d] * scale : number(0);
    out_k[d] = 0;
  }
  for (int d = 0; d < WIDTH_V; d++) {
    value[d] = j < Tk ? v[start(at_v, b, h) + j * at_v.row + d] : number(0);
    out_v[d] = 0;
  }
  int begin = mask.causal ? ours / TILE * TILE : 0;  // no query before that may look at our keys
  for (int first = begin; first < Tq; first += TILE) {
    __syncthreads();
    fetch<WIDTH>(queries, q + start(at_q, b, h), at_q.row, first, Tq);
    fetch<WIDTH_V>(slopes, g + start(at_g, b, h), at_g.row, first, Tq);
    long long row = ((long long)b * heads + h) * Tq + first;
    if (threadIdx.x < TILE) {
      bool there = first + threadIdx.x < Tq;
      log_sums[threadIdx.x] = there ? sums[row + threadIdx.x] : -INFINITY;
      means[threadIdx.x] = there ? along[row + threadIdx.x] : number(0);
    }
    if (dropout.drop)
      for (int n = threadIdx.x; n < TILE * GROUPS; n += THREADS) {
        int i = n / GROUPS;
        word block = (((word)h * Tq + first + i) * Tk + ours) / 16 + n % GROUPS;
        bits[i][n % GROUPS] = kept_bits(dropout, dropout.first_block + b * dropout.blocks_of_a_row + block);
      }
    __syncthreads();
    if (j >= Tk) continue;
    for (int i = 0; i < TILE && first + i < Tq; i++) {
      if (log_sums[i] == -INFINITY) continue;
      number score = 0, dp = 0, grown = grow;
      for (int d = 0; d < WIDTH; d++) score += queries[i][d] * key[d];
      number p = exp(masked(score, mask, b, h, first + i, j) - log_sums[i]);
      if (dropout.drop) {
        int from = (int)((((word)h * Tq + first + i) * Tk + ours) % 16) + threadIdx.x;
        if (!(bits[i][from / 16] >> (from % 16) & 1)) grown = 0;
      }
      for (int d = 0; d < WIDTH_V; d++) {
        dp += slopes[i][d] * value[d];
        out_v[d] += p * grown * slopes[i][d];
      }
      number ds = p * (dp * grown - means[i]);
      for (int d = 0; d < WIDTH; d++) out_k[d] += ds * queries[i][d];
    }
  }
  if (j >= Tk) return;
  for (int d = 0; d < WIDTH; d++) dk[start(at_dk, b, h) + j * at_dk.row + d] = out_k[d] * scale;
  for (int d = 0; d < WIDTH_V; d++) dv[start(at_dv, b, h) + j * at_dv.row + d] = out_v[d];
}
