// One launch over any number of tensors: the EMA of a model, and RMSprop's step.
//
// A table in device memory lists the pieces, one block each: addresses and a count, at most PIECE elements long. Tensors
// start anywhere, so a piece is walked in steps of four where all its addresses allow 16-byte access, else one by one.
#ifndef VALUE
#define VALUE float
#endif

// Addresses that come out of a table may point anywhere, as far as the compiler knows; with a hint, it loads without asking.
#ifdef ON_HOST
#define IN_GLOBAL(p)
#else
#define IN_GLOBAL(p) __builtin_assume(__isGlobal(p))
#endif

template <class T> __device__ __forceinline__ bool whole_vectors(const T* p) { return ((u64)p & (sizeof(T) * 4 - 1)) == 0; }
template <class T> struct __align__(sizeof(T) * 4) Four { T v[4]; };

// count > 0: floats to average; count < 0: so many 8-byte integers to copy.
struct Pair { float* average; const VALUE* value; i64 count; };

extern "C" __global__ void __launch_bounds__(256) ema_update(const Pair* __restrict__ pairs, const float* __restrict__ decay) {
  Pair p = pairs[blockIdx.x];
  IN_GLOBAL(p.average);
  IN_GLOBAL(p.value);
  if (p.count < 0) {
    for (i64 i = threadIdx.x; i < -p.count; i += blockDim.x) ((i64*)p.average)[i] = ((const i64*)p.value)[i];
    return;
  }
  float weight = 1.f - *decay;
  i64 fours = whole_vectors(p.average) && whole_vectors(p.value) ? p.count / 4 : 0;
  for (i64 i = threadIdx.x; i < fours; i += blockDim.x) {
    float4 a = ((float4*)p.average)[i];
    Four<VALUE> v = ((const Four<VALUE>*)p.value)[i];
    a.x = __fadd_rn(a.x, __fmul_rn(weight, widen(v.v[0]) - a.x));
    a.y = __fadd_rn(a.y, __fmul_rn(weight, widen(v.v[1]) - a.y));
    a.z = __fadd_rn(a.z, __fmul_rn(weight, widen(v.v[2]) - a.z));
    a.w = __fadd_rn(a.w, __fmul_rn(weight, widen(v.v[3]) - a.w));
    ((float4*)p.average)[i] = a;
  }
  for (i64 i = 4 * fours + threadIdx.x; i < p.count; i += blockDim.x) {
    float a = p.average[i];
    p.average[i] = __fadd_rn(a, __fmul_rn(weight, widen(p.value[i]) - a));
  }
}

struct Slots { float* parameter; const float* gradient; float* square; float* velocity; i64 count; i64 decay_bits; };

struct Rule { float lr, alpha, eps, momentum, weight_decay, unscale; };

__device__ __forceinline__ void move(float& p, float g, float& s, float& v, Rule r) {
  g = g * r.unscale + r.weight_decay * p;
  s = r.alpha * s + (1.f - r.alpha) * g * g;
  v = r.momentum * v + g / (sqrtf(s) + r.eps);
  p -= r.lr * v;
}

// scale may be null: the gradients are multiplied by 1. found_inf may be null; where it is not 0, nothing is touched.
extern "C" __global__ void __launch_bounds__(256)
rmsprop_step(const Slots* __restrict__ slots, const float* __restrict__ lr, const float* __restrict__ scale,
             const float* __restrict__ found_inf, float alpha, float eps, float momentum) {
  if (found_inf && *found_inf != 0.f) return;
  Slots t = slots[blockIdx.x];
  IN_GLOBAL(t.parameter);
  IN_GLOBAL(t.gradient);
  IN_GLOBAL(t.square);
  IN_GLOBAL(t.velocity);
  Rule r = {*lr, alpha, eps, momentum, __uint_as_float((unsigned)t.decay_bits), scale ? 1.f / *scale : 1.f};
  bool whole = whole_vectors(t.parameter) && whole_vectors(t.gradient) && whole_vectors(t.square) && whole_vectors(t.velocity);
  i64 fours = whole ? t.count / 4 : 0;
  for (i64 i = threadIdx.x; i < fours; i += blockDim.x) {
    float4 p = ((float4*)t.parameter)[i], g = ((const float4*)t.gradient)[i];
    float4 s = ((float4*)t.square)[i], v = ((float4*)t.velocity)[i];
    move(p.x, g.x, s.x, v.x, r);
    move(p.y, g.y, s.y, v.y, r);
    move(p.z, g.z, s.z, v.z, r);
    move(p.w, g.w, s.w, v.w, r);
    ((float4*)t.parameter)[i] = p;
    ((float4*)t.square)[i] = s;
    ((float4*)t.velocity)[i] = v;
  }
  for (i64 i = 4 * fours + threadIdx.x; i < t.count; i += blockDim.x) {
    float p = t.parameter[i], s = t.square[i], v = t.velocity[i];
    move(p, t.gradient[i], s, v, r);
    t.parameter[i] = p;
    t.square[i] = s;
    t.velocity[i] = v;
  }
}
