// Sigmoid focal loss: its value, and its gradient. The formulas are in focal_loss.py.
//
// A labelled logit is a background one mirrored: with z = -x and the weight alpha it costs the same, and its slope is
// the negative. So there is one formula. Both kernels read 16 bytes a load, over all rows as over one line, so that C
// need not be a multiple of anything. Nearly every vector has neither a label nor an ignored row: it goes a short way.
#define WIDTH (16 / (int)sizeof(SCALAR))
struct __align__(16) Vector { SCALAR at[WIDTH]; };
// 8 x 256 threads fill a multiprocessor, at 32 registers each; the float64 build is for gradcheck and may take more.
#define THREADS 256
#define BLOCKS_PER_SM (sizeof(ACC) == 8 ? 1 : 8)

// log(1 + e), e in [0, 1]: a minimax polynomial (Remez exchange), at most 1.6 eps wrong relative to the result. Not
// __logf(1 + e): that asks the special function unit, which three exp a logit already fill, and rounds a small e away.
// Logits of 16 bits get a shorter one, at most 8.6e-6 wrong: they are rounded to 4.9e-4 themselves, and at two bytes a
// logit it is arithmetic that limits the value.
__device__ __forceinline__ float log_one_plus(float e) {
  if (sizeof(SCALAR) == 2) {
    float sum = -0.023869152f;
    sum = sum * e + 0.101222285f;
    sum = sum * e - 0.210048690f;
    sum = sum * e + 0.325206680f;
    sum = sum * e - 0.499361365f;
    sum = sum * e + 0.999991598f;
    return sum * e;
  }
  float sum = 0.0052326931f;
  sum = sum * e - 0.0295052398f;
  sum = sum * e + 0.0782259554f;
  sum = sum * e - 0.1366324574f;
  sum = sum * e + 0.1910600662f;
  sum = sum * e - 0.2484298199f;
  sum = sum * e + 0.3331909776f;
  sum = sum * e - 0.4999949336f;
  sum = sum * e + 0.9999999404f;
  return sum * e;
}
__device__ __forceinline__ double log_one_plus(double e) { return log1p(e); }
// exp2 is one instruction, exp is that and a product: where a factor is there already, log2(e) goes into it.
#define LOG2_E ACC(1.4426950408889634)

// p^gamma, the cross entropy s - t z and p of a logit z that is background (or a labelled one mirrored).
struct Term { ACC modulator, cost, p; };
__device__ __forceinline__ Term term(ACC z, ACC gamma_log2_e, ACC t) {
  ACC tail = log_one_plus(exp2(LOG2_E * (z < ACC(0) ? z : -z)));
  ACC log_p = (z < ACC(0) ? z : ACC(0)) - tail, cost = (z < ACC(0) ? ACC(0) : z) + tail;
  if (t != ACC(0)) cost -= t * z;  // 0 x inf would be NaN
  return {exp2(gamma_log2_e * log_p), cost, exp2(LOG2_E * log_p)};
}

// Which elements of a vector are labelled or count for nothing, one bit each. Labels are read once a row.
struct Marks { unsigned labelled, ignored; };
__device__ __forceinline__ Marks marks(const i64* __restrict__ labels, i64 row, i64 rows, int column, int classes) {
  Marks m = {0u, 0u};
  for (int start = -column; start < WIDTH && row < rows; start += classes, row++) {
    int label = (int)labels[row], from = start < 0 ? 0 : start, to = start + classes < WIDTH ? start + classes : WIDTH;
    unsigned element = (unsigned)start + (unsigned)label;
    if ((unsigned)label < (unsigned)classes && element < (unsigned)WIDTH) m.labelled |= 1u << element;
    if (label == -2) m.ignored |= (1u << to) - (1u << from);
  }
  return m;
}

struct Settings { ACC alpha, gamma, t, scale; };

// Walk over all logits; return this thread's share of the loss, or write `scale` times the gradient instead.
template <bool GRADIENT>
__device__ __forceinline__ ACC sweep(
    const SCALAR* __restrict__ logits, const i64* __restrict__ labels, SCALAR* __restrict__ grad, i64 rows, int classes,
    Settings f) {
  const ACC background = (ACC(1) - f.alpha) * f.scale, labelled = -f.alpha * f.scale;
  const ACC gamma_log2_e = f.gamma * LOG2_E;
  // Row and column are carried along: a 64-bit division a vector would cost more than the vector.
  const unsigned stride = gridDim.x * blockDim.x * WIDTH, first = (blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
  const int rows_on = stride / (unsigned)classes, columns_on = stride % (unsigned)classes;
  const i64 count = rows * classes;
  i64 row = first / (unsigned)classes;
  int column = first % (unsigned)classes;
  ACC sum_background = ACC(0), sum_labelled = ACC(0);
  for (i64 i = first; i < count; i += stride) {
    Vector in, out;
    Marks m = marks(labels, row, rows, column, classes);
    const bool whole = count - i >= WIDTH;
    if (whole) {
      in = *(const Vector*)(logits + i);
    } else {  // the last elements are not a vector's full
      m.ignored |= ~0u << (int)(count - i);
#pragma unroll
      for (int j = 0; j < WIDTH; j++) in.at[j] = i + j < count ? logits[i + j] : Narrow<SCALAR>::of(ACC(0));
    }
    if ((m.labelled | m.ignored) == 0u) {
#pragma unroll
      for (int j = 0; j < WIDTH; j++) {
        Term v = term(widen(in.at[j]), gamma_log2_e, f.t);
        sum_background += v.modulator * v.cost;
        ACC slope = f.gamma * background * (v.cost - v.cost * v.p) + (background * v.p - background * f.t);
        out.at[j] = Narrow<SCALAR>::of(v.modulator * slope);
      }
    } else {
#pragma unroll
      for (int j = 0; j < WIDTH; j++) {
        bool hit = m.labelled >> j & 1u, ignored = m.ignored >> j & 1u;
        ACC x = ignored ? ACC(0) : ACC(widen(in.at[j])), share = ignored ? ACC(0) : hit ? labelled : background;
        Term v = term(hit ? -x : x, gamma_log2_e, f.t);
        sum_background += hit || ignored ? ACC(0) : v.modulator * v.cost;
        sum_labelled += hit ? v.modulator * v.cost : ACC(0);
        ACC slope = f.gamma * share * (v.cost - v.cost * v.p) + (share * v.p - share * f.t);
        out.at[j] = Narrow<SCALAR>::of(v.modulator * slope);
      }
    }
    if (GRADIENT && whole) *(Vector*)(grad + i) = out;
    if (GRADIENT && !whole)
#pragma unroll
      for (int j = 0; j < WIDTH; j++) if (i + j < count) grad[i + j] = out.at[j];
    row += rows_on;
    column += columns_on;
    if (column >= classes) { column -= classes; row++; }
  }
  return (ACC(1) - f.alpha) * sum_background + f.alpha * sum_labelled;
}

// The sum is made in two stages, always in one order: within blocks, then by the last block over their partial sums.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
focal_loss(
    const SCALAR* __restrict__ logits, const i64* __restrict__ labels, ACC* partials, unsigned* ticket, ACC* loss,
    i64 rows, int classes, ACC alpha, ACC gamma, ACC background_target) {
  ACC sum = block_sum(sweep<false>(logits, labels, nullptr, rows, classes, {alpha, gamma, background_target, ACC(1)}));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (!last_block(ticket)) return;
  sum = ACC(0);
  for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += ((volatile ACC*)partials)[b];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = sum;
}

// `grad_output` is the gradient of the loss itself: read here, from the device, so that the host never waits for it.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
focal_loss_gradient(
    const SCALAR* __restrict__ logits, const i64* __restrict__ labels, const ACC* __restrict__ grad_output,
    SCALAR* __restrict__ grad, i64 rows, int classes, ACC alpha, ACC gamma, ACC background_target) {
  sweep<true>(logits, labels, grad, rows, classes, {alpha, gamma, background_target, *grad_output});
}
