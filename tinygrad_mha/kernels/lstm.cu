// One LSTM layer over all steps in one launch, forward and backward. (lstm.py says when, and how it is called.)
//
// Texts do not wait for each other: a block owns ROWS of them and walks through their steps. What a text remembers, h
// and c, stays in shared memory. The recurrent weights are needed at every step, and reading them is what a step takes
// its time for. Of each column a thread keeps KEEP in registers, `held` more are in shared memory, and the rest is read
// from the cache.
//
// The token t of text b stands in row t * by_step + b * by_text of every table, so that (T, B, ·) and (B, T, ·) are
// both read as they lie. Gates stand side by side in the order i f g o, H of each.
#include "number.cuh"
#ifndef ROWS
#define ROWS 2  // texts of a block
#endif
#ifndef THREADS
#define THREADS 128  // of a block, at least 4H: each has a column of the gates
#endif
#ifndef KEEP
#define KEEP 8  // at most H
#endif

__device__ __forceinline__ number sigmoid(number x) { return number(1) / (number(1) + exp(-x)); }

// One unit of one text, one step forward: four gates, c and h. `gates` holds the four sums and is left with the gates.
__device__ __forceinline__ void forward_unit(number* i, number* f, number* g, number* o, number* c, number* h) {
  *i = sigmoid(*i), *f = sigmoid(*f), *g = tanh(*g), *o = sigmoid(*o);
  *c = *f * *c + *i * *g;
  *h = *o * tanh(*c);
}

// The same step backwards. In: dh, and dc of the new c. Out: the gradients of the four sums, and dc of the old c.
__device__ __forceinline__ void backward_unit(number i, number f, number g, number o, number c_old, number c, number dh, number* dc,
                                              number* di, number* df, number* dg, number* d_o) {
  number s = tanh(c), d = *dc + dh * o * (1 - s * s);
  *di = d * g * i * (1 - i);
  *df = d * c_old * f * (1 - f);
  *dg = d * i * (1 - g * g);
  *d_o = dh * s * o * (1 - o);
  *dc = d * f;
}

// The product of ROWS vectors in shared memory, x (H, ROWS), with the thread's own column of the weights: `kept` its
// first KEEP numbers, then `held` numbers in shared memory, `stride` apart, then the rest in `column`, `far` apart.
__device__ __forceinline__ void product(number* sum, const number* x, const number* kept, const number* near,
                                        int held, int stride, const number* __restrict__ column, int far, int H) {
  for (int r = 0; r < ROWS; r++) sum[r] = 0;
#pragma unroll
  for (int n = 0; n < KEEP; n++)
    for (int r = 0; r < ROWS; r++) sum[r] += kept[n] * x[n * ROWS + r];
  x += KEEP * ROWS;
#pragma unroll 8
  for (int n = 0; n < held; n++)
    for (int r = 0; r < ROWS; r++) sum[r] += near[n * stride] * x[n * ROWS + r];
  x += held * ROWS, column += (size_t)(KEEP + held) * far;
#pragma unroll 16
  for (int n = 0; n < H - KEEP - held; n++) {
    number u = column[(size_t)n * far];
    for (int r = 0; r < ROWS; r++) sum[r] += u * x[n * ROWS + r];
  }
}

// How many steps the longest text of a block has.
__device__ __forceinline__ int longest_of(const int* lengths, int first, int rows, int T) {
  if (!lengths) return T;
  int longest = 0;
  for (int r = 0; r < rows; r++) longest = max(longest, lengths[first + r]);
  return longest;
}

// gates (N, 4H): in, x w_ihᵀ of all tokens; out, the gates. w (H, 4H) = w_hhᵀ. Biases (4H) and lengths (B) or null.
// y (N, H): h, and 0 at pads. before (N, H): the h that each step started from. cells (N, H): c after it.
// Block: THREADS. Grid: ceil(B / ROWS). Shared: ROWS * 6H + held * 4H numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
lstm_forward(number* __restrict__ gates, const number* __restrict__ w, const number* __restrict__ b_ih,
             const number* __restrict__ b_hh, const number* __restrict__ h0, const number* __restrict__ c0,
             const int* __restrict__ lengths, number* __restrict__ y, number* __restrict__ before,
             number* __restrict__ cells, number* __restrict__ h_n, number* __restrict__ c_n, int T, int B, int H,
             int by_step, int by_text, int reverse, int held) {
  extern __shared__ char memory[];
  int first = blockIdx.x * ROWS, rows = min(ROWS, B - first), G = 4 * H, j = threadIdx.x;
  int longest = longest_of(lengths, first, rows, T);
  number* h = (number*)memory;          // (H, ROWS)
  number* c = h + ROWS * H;             // (ROWS, H)
  number* sums = c + ROWS * H;          // (ROWS, 4H)
  number* near = sums + ROWS * 4 * H;   // (held, 4H)
  number kept[KEEP + 1], bias = 0;
  for (int k = threadIdx.x; k < ROWS * H; k += THREADS) {
    int r = k / H, u = k % H;
    size_t at = (size_t)(first + r) * H + u;
    h[u * ROWS + r] = r < rows ? h0[at] : number(0);
    c[k] = r < rows ? c0[at] : number(0);
  }
  for (int k = threadIdx.x; k < held * G; k += THREADS) near[k] = w[(size_t)KEEP * G + k];
  if (j < G) {
    bias = (b_ih ? b_ih[j] : number(0)) + (b_hh ? b_hh[j] : number(0));
#pragma unroll
    for (int n = 0; n < KEEP; n++) kept[n] = w[(size_t)n * G + j];
  }
  __syncthreads();
  for (int k = 0; k < T; k++) {
    int t = reverse ? T - 1 - k : k;
    size_t row = (size_t)t * by_step + (size_t)first * by_text;
    if (j < G && t < longest) {  // one column of the gates, all texts of the block
      number from_x[ROWS], sum[ROWS];  // (asked for now, needed after the product)
      for (int r = 0; r < ROWS; r++) from_x[r] = r < rows ? gates[(row + (size_t)r * by_text) * G + j] : number(0);
      product(sum, h, kept, near + j, held, G, w + j, G, H);
      for (int r = 0; r < ROWS; r++) sums[r * G + j] = sum[r] + from_x[r] + bias;
    }
    __syncthreads();
    for (int u = threadIdx.x; u < rows * H; u += THREADS) {  // one unit of one text
      int r = u / H, i = u % H;
      size_t token = row + (size_t)r * by_text, at = token * H + i;
      bool alive = !lengths || t < lengths[first + r];
      number *s = sums + r * G + i, h_new = 0;
      before[at] = h[i * ROWS + r];
      if (alive) {
        forward_unit(s, s + H, s + 2 * H, s + 3 * H, c + u, &h_new);
        h[i * ROWS + r] = h_new;
      }
      y[at] = h_new, cells[at] = c[u];
      number* a = gates + token * G + i;
      a[0] = s[0], a[H] = s[H], a[2 * H] = s[2 * H], a[3 * H] = s[3 * H];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < rows * H; k += THREADS) {
    size_t at = (size_t)(first + k / H) * H + k % H;
    h_n[at] = h[(k % H) * ROWS + k / H], c_n[at] = c[k];
  }
}

// gates, cells, c0, lengths as above. w (4H, H) = w_hh. dy (N, H), dh_n, dc_n (B, H): what arrives, or null.
// da (N, 4H): the gradients of the sums, 0 at pads. dh0, dc0 (B, H): of the first states.
// Block: THREADS. Grid: ceil(B / ROWS). Shared: ROWS * 10H + held * 4H numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
lstm_backward(const number* __restrict__ gates, const number* __restrict__ cells, const number* __restrict__ w,
              const number* __restrict__ c0, const int* __restrict__ lengths, const number* __restrict__ dy,
              const number* __restrict__ dh_n, const number* __restrict__ dc_n, number* __restrict__ da,
              number* __restrict__ dh0, number* __restrict__ dc0, int T, int B, int H, int by_step, int by_text,
              int reverse, int held) {
  extern __shared__ char memory[];
  int first = blockIdx.x * ROWS, rows = min(ROWS, B - first), G = 4 * H;
  int longest = longest_of(lengths, first, rows, T);
  int p = threadIdx.x / H, j = threadIdx.x % H;  // the thread's gate, and its unit of the h before
  number* d = (number*)memory;          // (4H, ROWS): da of this step
  number* parts = d + ROWS * 4 * H;     // (ROWS, 4, H): dh of the step before, as one part for each gate
  number* waiting = parts + ROWS * 4 * H;  // (ROWS, H): what a pad hands on of dh
  number* dc = waiting + ROWS * H;      // (ROWS, H)
  number* near = dc + ROWS * H;         // (held, 4H)
  number kept[KEEP + 1];
  const number* column = w + (size_t)p * H * H + j;
  for (int k = threadIdx.x; k < ROWS * H; k += THREADS) {
    size_t at = (size_t)(first + k / H) * H + k % H;
    bool there = k / H < rows;
    waiting[k] = there && dh_n ? dh_n[at] : number(0);
    dc[k] = there && dc_n ? dc_n[at] : number(0);
  }
  for (int k = threadIdx.x; k < ROWS * G; k += THREADS) parts[k] = d[k] = 0;
  for (int k = threadIdx.x; k < held * G; k += THREADS)
    near[k] = w[((size_t)(k % G / H) * H + KEEP + k / G) * H + k % H];
  if (threadIdx.x < G) {
#pragma unroll
    for (int n = 0; n < KEEP; n++) kept[n] = column[(size_t)n * H];
  }
  __syncthreads();
  for (int k = T - 1; k >= 0; k--) {
    int t = reverse ? T - 1 - k : k, earlier = reverse ? t + 1 : t - 1;
    size_t row = (size_t)t * by_step + (size_t)first * by_text;
    for (int u = threadIdx.x; u < rows * H; u += THREADS) {  // one unit of one text
      int r = u / H, i = u % H;
      size_t token = row + (size_t)r * by_text, at = token * H + i;
      const number* part = parts + r * G + i;
      number dh = waiting[u] + part[0] + part[H] + part[2 * H] + part[3 * H];
      number di = 0, df = 0, dg = 0, d_o = 0;
      bool alive = !lengths || t < lengths[first + r];
      if (alive) {
        const number* a = gates + token * G + i;
        size_t was = ((size_t)earlier * by_step + (size_t)(first + r) * by_text) * H + i;
        number c_old = k ? cells[was] : c0[(size_t)(first + r) * H + i];
        if (dy) dh += dy[at];
        backward_unit(a[0], a[H], a[2 * H], a[3 * H], c_old, cells[at], dh, dc + u, &di, &df, &dg, &d_o);
      }
      waiting[u] = alive ? number(0) : dh;
      number* out = da + token * G + i;
      out[0] = di, out[H] = df, out[2 * H] = dg, out[3 * H] = d_o;
      number* mine = d + i * ROWS + r;
      mine[0] = di, mine[H * ROWS] = df, mine[2 * H * ROWS] = dg, mine[3 * H * ROWS] = d_o;
    }
    __syncthreads();
    if (threadIdx.x < G) {  // one gate's part of one unit of dh, all texts of the block
      number sum[ROWS] = {};
      if (t < longest) product(sum, d + (size_t)p * H * ROWS, kept, near + threadIdx.x, held, G, column, H, H);
      for (int r = 0; r < ROWS; r++) parts[r * G + threadIdx.x] = sum[r];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < rows * H; k += THREADS) {
    const number* part = parts + (k / H) * G + k % H;
    size_t at = (size_t)(first + k / H) * H + k % H;
    dh0[at] = waiting[k] + part[0] + part[H] + part[2 * H] + part[3 * H], dc0[at] = dc[k];
  }
}

// For layers too wide for the above: a step of its own. The product h w_hhᵀ is a matrix product of cuBLAS's.
// sums (B, 4H) = h w_hhᵀ. h, c (B, H): the state, changed. Any grid and block.
extern "C" __global__ void lstm_step(number* __restrict__ gates, const number* __restrict__ sums,
                                     const number* __restrict__ b_ih, const number* __restrict__ b_hh,
                                     const int* __restrict__ lengths, number* __restrict__ h, number* __restrict__ c,
                                     number* __restrict__ y, number* __restrict__ before, number* __restrict__ cells, int t,
                                     int B, int H, int by_step, int by_text) {
  EACH(k, (long long)B * H) {
    size_t b = k / H, j = k % H, token = (size_t)t * by_step + b * by_text, at = token * H + j, G = 4 * (size_t)H;
    number *a = gates + token * G + j, cell = c[k], h_new = 0;
    before[at] = h[k];
    bool alive = !lengths || t < lengths[b];
    if (alive) {
      for (int p = 0; p < 4; p++) {
        size_t n = p * (size_t)H + j;
        a[p * (size_t)H] += sums[b * G + n] + (b_ih ? b_ih[n] : number(0)) + (b_hh ? b_hh[n] : number(0));
      }
      forward_unit(a, a + H, a + 2 * H, a + 3 * H, &cell, &h_new);
      h[k] = h_new, c[k] = cell;
    }
    y[at] = h_new, cells[at] = cell;
  }
}

// dh_sum (B, H): what the later step's product gave. dh (B, H): what a pad handed on. Out: da of the step, twice:
// in its table, and in one piece, d (B, 4H), for the next product.
extern "C" __global__ void lstm_step_back(const number* __restrict__ gates, const number* __restrict__ cells,
                                          const number* __restrict__ c0, const int* __restrict__ lengths,
                                          const number* __restrict__ dy, const number* __restrict__ dh_sum,
                                          number* __restrict__ dh, number* __restrict__ dc, number* __restrict__ da,
                                          number* __restrict__ d, int t, int earlier, int last, int B, int H,
                                          int by_step, int by_text) {
  EACH(k, (long long)B * H) {
    size_t b = k / H, j = k % H, token = (size_t)t * by_step + b * by_text, at = token * H + j, G = 4 * (size_t)H;
    number dh_t = dh[k] + dh_sum[k], di = 0, df = 0, dg = 0, d_o = 0;
    bool alive = !lengths || t < lengths[b];
    if (alive) {
      const number* a = gates + token * G + j;
      number c_old = last ? c0[k] : cells[((size_t)earlier * by_step + b * by_text) * H + j];
      if (dy) dh_t += dy[at];
      backward_unit(a[0], a[H], a[2 * (size_t)H], a[3 * (size_t)H], c_old, cells[at], dh_t, dc + k, &di, &df, &dg, &d_o);
    }
    dh[k] = alive ? number(0) : dh_t;
    number *out = da + token * G + j, *piece = d + b * G + j;
    out[0] = piece[0] = di, out[H] = piece[H] = df, out[2 * (size_t)H] = piece[2 * (size_t)H] = dg;
    out[3 * (size_t)H] = piece[3 * (size_t)H] = d_o;
  }
}

// x (N, I) -> y, the same with zeros at the pads, so that whatever stands there cannot reach a product.
extern "C" __global__ void without_pads(const number* __restrict__ x, number* __restrict__ y, const int* __restrict__ lengths,
                                        int T, int B, int I, int by_step, int by_text) {
  EACH(k, (long long)T * B * I) {
    size_t token = k / I;
    int t = by_text == 1 ? token / by_step : token % by_text, b = by_text == 1 ? token % by_step : token / by_text;
    y[k] = t < lengths[b] ? x[k] : number(0);
  }
}
