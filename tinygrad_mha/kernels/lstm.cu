// One LSTM layer over all steps in one launch, forward and backward. (lstm.py says when, and how it is called.)
//
// Texts do not wait for each other: a block owns ROWS of them and walks through their steps. What a text remembers,
// h, stays in shared memory. The recurrent weights do not fit there; they are read at every step, from the cache.
//
// The real token (t, b) of a batch stands in row t * by_step + b * by_text of every table, so that (T, B, ·) and
// (B, T, ·) are both read as they lie. Gates stand side by side in the order i f g o, H of each.
#include "number.cuh"
#ifndef ROWS
#define ROWS 2  // texts of a block
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

// gates (N, 4H): in, x w_ihᵀ of all tokens; out, the gates. w (H, 4H) = w_hhᵀ. Biases (4H) and lengths (B) or null.
// y (N, H): h, and 0 at pads. before (N, H): the h that each step started from. cells (N, H): c after it.
// Block: any number of threads. Grid: ceil(B / ROWS). Shared: ROWS * 5H numbers.
extern "C" __global__ void __launch_bounds__(1024)
lstm_forward(number* __restrict__ gates, const number* __restrict__ w, const number* __restrict__ b_ih,
             const number* __restrict__ b_hh, const number* __restrict__ h0, const number* __restrict__ c0,
             const int* __restrict__ lengths, number* __restrict__ y, number* __restrict__ before,
             number* __restrict__ cells, number* __restrict__ h_n, number* __restrict__ c_n, int T, int B, int H,
             int by_step, int by_text, int reverse) {
  extern __shared__ char memory[];
  number* h = (number*)memory;    // (H, ROWS)
  number* sums = h + ROWS * H;  // (ROWS, 4H)
  int first = blockIdx.x * ROWS, rows = min(ROWS, B - first), G = 4 * H;
  for (int k = threadIdx.x; k < ROWS * H; k += blockDim.x) {
    int r = k / H, j = k % H;
    size_t at = (size_t)(first + r) * H + j;
    h[j * ROWS + r] = r < rows ? h0[at] : number(0);
    if (r < rows) c_n[at] = c0[at];
  }
  __syncthreads();
  for (int k = 0; k < T; k++) {
    int t = reverse ? T - 1 - k : k;
    size_t row = (size_t)t * by_step + (size_t)first * by_text;
    for (int j = threadIdx.x; j < G; j += blockDim.x) {  // one column of the gates, all texts of the block
      number sum[ROWS], bias = (b_ih ? b_ih[j] : number(0)) + (b_hh ? b_hh[j] : number(0));
      for (int r = 0; r < ROWS; r++) sum[r] = r < rows ? gates[(row + (size_t)r * by_text) * G + j] + bias : number(0);
#pragma unroll 16
      for (int n = 0; n < H; n++) {
        number u = w[(size_t)n * G + j];
        for (int r = 0; r < ROWS; r++) sum[r] += u * h[n * ROWS + r];
      }
      for (int r = 0; r < ROWS; r++) sums[r * G + j] = sum[r];
    }
    __syncthreads();
    for (int k = threadIdx.x; k < rows * H; k += blockDim.x) {  // one unit of one text
      int r = k / H, j = k % H;
      size_t token = row + (size_t)r * by_text, at = token * H + j, state = (size_t)(first + r) * H + j;
      bool alive = !lengths || t < lengths[first + r];
      number *s = sums + r * G + j, c = c_n[state], h_new;
      before[at] = h[j * ROWS + r];
      if (alive) {
        forward_unit(s, s + H, s + 2 * H, s + 3 * H, &c, &h_new);
        h[j * ROWS + r] = h_new;
        c_n[state] = c;
      }
      y[at] = alive ? h_new : number(0);
      cells[at] = c;
      number* a = gates + token * G + j;
      a[0] = s[0], a[H] = s[H], a[2 * H] = s[2 * H], a[3 * H] = s[3 * H];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < rows * H; k += blockDim.x) h_n[(size_t)(first + k / H) * H + k % H] = h[(k % H) * ROWS + k / H];
}

// gates, cells, c0, lengths as above. w (4H, H) = w_hh. dy (N, H), dh_n, dc_n (B, H): what arrives, or null.
// da (N, 4H): the gradients of the sums, 0 at pads. dh0, dc0 (B, H): of the first states.
// Grid: ceil(B / ROWS). Shared: ROWS * 9H numbers.
extern "C" __global__ void __launch_bounds__(1024)
lstm_backward(const number* __restrict__ gates, const number* __restrict__ cells, const number* __restrict__ w,
              const number* __restrict__ c0, const int* __restrict__ lengths, const number* __restrict__ dy,
              const number* __restrict__ dh_n, const number* __restrict__ dc_n, number* __restrict__ da,
              number* __restrict__ dh0, number* __restrict__ dc0, int T, int B, int H, int by_step, int by_text,
              int reverse) {
  extern __shared__ char memory[];
  number* d = (number*)memory;        // (4H, ROWS): da of this step
  number* parts = d + ROWS * 4 * H;  // (ROWS, 4, H): dh of the step before, as one part for each gate
  number* kept = parts + ROWS * 4 * H;  // (ROWS, H): what a pad hands on
  int first = blockIdx.x * ROWS, rows = min(ROWS, B - first), G = 4 * H;
  for (int k = threadIdx.x; k < ROWS * H; k += blockDim.x) {
    int r = k / H, j = k % H;
    size_t at = (size_t)(first + r) * H + j;
    kept[k] = r < rows && dh_n ? dh_n[at] : number(0);
    for (int p = 0; p < 4; p++) parts[(r * 4 + p) * H + j] = d[(p * H + j) * ROWS + r] = 0;
    if (r < rows) dc0[at] = dc_n ? dc_n[at] : number(0);
  }
  __syncthreads();
  for (int k = T - 1; k >= 0; k--) {
    int t = reverse ? T - 1 - k : k, earlier = reverse ? t + 1 : t - 1;
    size_t row = (size_t)t * by_step + (size_t)first * by_text;
    for (int k2 = threadIdx.x; k2 < rows * H; k2 += blockDim.x) {
      int r = k2 / H, j = k2 % H;
      size_t token = row + (size_t)r * by_text, at = token * H + j, state = (size_t)(first + r) * H + j;
      const number* part = parts + r * G + j;
      number dh = kept[k2] + part[0] + part[H] + part[2 * H] + part[3 * H], dc = dc0[state];
      number di = 0, df = 0, dg = 0, d_o = 0;
      bool alive = !lengths || t < lengths[first + r];
      if (alive) {
        const number* a = gates + token * G + j;
        size_t was = ((size_t)earlier * by_step + (size_t)(first + r) * by_text) * H + j;
        number c_old = k ? cells[was] : c0[state];
        if (dy) dh += dy[at];
        backward_unit(a[0], a[H], a[2 * H], a[3 * H], c_old, cells[at], dh, &dc, &di, &df, &dg, &d_o);
        dc0[state] = dc;
      }
      kept[k2] = alive ? number(0) : dh;
      number* out = da + token * G + j;
      out[0] = di, out[H] = df, out[2 * H] = dg, out[3 * H] = d_o;
      number* mine = d + j * ROWS + r;
      mine[0] = di, mine[H * ROWS] = df, mine[2 * H * ROWS] = dg, mine[3 * H * ROWS] = d_o;
    }
    __syncthreads();
    for (int n = threadIdx.x; n < G; n += blockDim.x) {  // one gate's part of one unit of dh, all texts of the block
      int p = n / H, j = n % H;
      const number *column = w + (size_t)p * H * H + j, *mine = d + (size_t)p * H * ROWS;
      number sum[ROWS];
      for (int r = 0; r < ROWS; r++) sum[r] = 0;
#pragma unroll 16
      for (int m = 0; m < H; m++) {
        number u = column[(size_t)m * H];
        for (int r = 0; r < ROWS; r++) sum[r] += u * mine[m * ROWS + r];
      }
      for (int r = 0; r < ROWS; r++) parts[r * G + n] = sum[r];
    }
    __syncthreads();
  }
  for (int k = threadIdx.x; k < rows * H; k += blockDim.x) {
    const number* part = parts + (k / H) * G + k % H;
    dh0[(size_t)(first + k / H) * H + k % H] = kept[k] + part[0] + part[H] + part[2 * H] + part[3 * H];
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
