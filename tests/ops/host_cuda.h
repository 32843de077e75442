// CUDA C++ on the host, for tests only: enough of it to build our kernels with g++ and run them, one block at a time.
//
// In another order (host_threads.h) a missing barrier, a sum by float atomics or a read of uninitialised shared memory
// gives other bits; a barrier in a branch, a lane that never comes and a deadlock are errors that name the line.
// Not seen: what a GPU's threads see of each other without a fence, fast-math rounding, fma, flushed denormals.
// A new function or type is one line below.
#pragma once
#include <cmath>
#include <type_traits>
#include <utility>
#include "host_threads.h"
#define ON_HOST
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __constant__ static
// One block runs at a time, so a static variable is the block's own. The section lets us fill all of them before each
// block; `used` keeps g++ from taking one that is never written for the constant 0.
#define __shared__ static __attribute__((section("shared_memory"), used))

namespace host {
template <class... A, size_t... I> void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<A>*)values[I]...);
}
template <class T> constexpr char letter() {
  if (std::is_pointer_v<T>) return 'p';
  if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? 'f' : 'd';
  return sizeof(T) == 4 ? 'i' : sizeof(T) == 8 ? 'l' : '?';
}
template <class... A> const char* letters(void (*)(A...)) {
  static const char text[] = {letter<A>()..., 0};
  return text;
}
template <class... A> auto indices(void (*)(A...)) { return std::index_sequence_for<A...>{}; }
}  // namespace host
#define HOST_LAUNCHER(kernel)                                                                      \
  extern "C" const char* kernel##_launch(const unsigned* sizes, void** values, int order) {          \
    host::body = [](void** v) { host::call(kernel, v, host::indices(kernel)); };                   \
    host::arguments = values;                                                                      \
    return host::run_grid(sizes, order);                                                           \
  }                                                                                                \
  extern "C" const char* kernel##_signature() { return host::letters(kernel); }

// What g++ checks at each access and operation (-fsanitize in harness.py) ends here; the first member says where.
struct Checked { const char* file; unsigned line, column; };
#define CHECK(name, message)                                                                                  \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(Checked* at, uintptr_t, uintptr_t) { \
    host::fail(std::string(message " at ") + at->file + ":" + std::to_string(at->line));                      \
  }
CHECK(type_mismatch_v1, "misaligned or null address")
CHECK(out_of_bounds, "index beyond its array")
CHECK(shift_out_of_bounds, "shift by more bits than there are")
CHECK(divrem_overflow, "integer division by zero")

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
#define HERE __FILE__ ":" TEXT(__LINE__)
#define __syncthreads() ((void)host::meet_block(HERE))
#define __syncthreads_count(p) (host::meet_block(HERE, p).result)
#define __syncthreads_or(p) (host::meet_block(HERE, p).result != 0)
#define __syncthreads_and(p) (host::meet_block(HERE, p).all)
#define __syncwarp(...) ((void)host::vote(host::every_lane(__VA_ARGS__), false, HERE))
#define __ballot_sync(mask, p) host::vote(mask, p, HERE)
#define __any_sync(mask, p) (host::vote(mask, p, HERE) != 0)
#define __all_sync(mask, p) (host::vote(mask, !(p), HERE) == 0)
#define __shfl_sync(mask, v, lane) host::shuffle(mask, v, (lane) & 31, HERE)
#define __shfl_xor_sync(mask, v, bits) host::shuffle(mask, v, host::own_lane() ^ (bits), HERE)
#define __shfl_down_sync(mask, v, by) host::shuffle(mask, v, host::own_lane() + (int)(by), HERE)
#define __shfl_up_sync(mask, v, by) host::shuffle(mask, v, host::own_lane() - (int)(by), HERE)

#define VECTORS(type, name)                                                                                    \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                     \
  struct alignas(sizeof(type) > 4 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; };                       \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                             \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(float, float) VECTORS(int, int) VECTORS(unsigned, uint) VECTORS(double, double)
VECTORS(short, short) VECTORS(unsigned short, ushort) VECTORS(long long, longlong)

// Both arguments of one type, where CUDA would convert: a mixed call is more often a slip than meant.
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }  // NaN loses
inline float max(float a, float b) { return fmaxf(a, b); }

// Threads take turns, so an atomic is an ordinary read and write. CUDA's own types only.
template <class T, class Operation> T atomic(T* address, Operation operation) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics take 4 or 8 bytes");
  T old = *address;
  *address = operation(old);
  return old;
}
template <class T> using Same = std::common_type_t<T>;  // taken from the address alone, the value is converted
template <class T> T atomicAdd(T* p, Same<T> v) { return atomic(p, [=](T old) { return old + v; }); }
template <class T> T atomicSub(T* p, Same<T> v) { return atomic(p, [=](T old) { return old - v; }); }
template <class T> T atomicMax(T* p, Same<T> v) { return atomic(p, [=](T old) { return max(old, v); }); }
template <class T> T atomicMin(T* p, Same<T> v) { return atomic(p, [=](T old) { return min(old, v); }); }
template <class T> T atomicAnd(T* p, Same<T> v) { return atomic(p, [=](T old) { return old & v; }); }
template <class T> T atomicOr(T* p, Same<T> v) { return atomic(p, [=](T old) { return old | v; }); }
template <class T> T atomicXor(T* p, Same<T> v) { return atomic(p, [=](T old) { return old ^ v; }); }
template <class T> T atomicExch(T* p, Same<T> v) { return atomic(p, [=](T) { return v; }); }
template <class T> T atomicCAS(T* p, Same<T> expected, Same<T> v) {
  return atomic(p, [=](T old) { return old == expected ? v : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> void __stcs(T* address, T value) { *address = value; }
template <class T> void __stcg(T* address, T value) { *address = value; }

template <class To, class From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned v) { return bits_as<float>(v); }
inline float __int_as_float(int v) { return bits_as<float>(v); }
inline unsigned __float_as_uint(float v) { return bits_as<unsigned>(v); }
inline int __float_as_int(float v) { return bits_as<int>(v); }
inline double __longlong_as_double(long long v) { return bits_as<double>(v); }
inline long long __double_as_longlong(double v) { return bits_as<long long>(v); }

inline float __expf(float v) { return expf(v); }
inline float __exp10f(float v) { return powf(10.0f, v); }
inline float __logf(float v) { return logf(v); }
inline float __log2f(float v) { return log2f(v); }
inline float __powf(float base, float exponent) { return powf(base, exponent); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float v) { return v > 0.0f ? fminf(v, 1.0f) : 0.0f; }  // NaN gives 0, as there
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(v) : 64; }

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float v) {
  unsigned bits = __float_as_uint(v);
  if (v != v) return {0x7fff};
  return {(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};  // to nearest, the even one of two
}
inline float __half2float(__half v) {
  unsigned bits = (v.bits & 0x7fffu) << 13;
  float size = __uint_as_float(bits) * 0x1p112f;  // the exponents' zeros differ by 112; subnormals come right too
  if (bits >= 0x0f800000u) size = __uint_as_float(bits | 0x7f800000u);  // infinity and NaN
  return v.bits & 0x8000u ? -size : size;
}
inline __half __float2half(float v) {
  unsigned size = __float_as_uint(v) & 0x7fffffffu, sign = __float_as_uint(v) >> 16 & 0x8000u;
  if (v != v) return {0x7fff};
  if (size < 0x38800000u)  // a subnormal half: 0.5f counts in the same steps of 2^-24, so the sum is rounded there
    size = __float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f);
  else
    size = std::min((size - (112u << 23) + 0xfffu + (size >> 13 & 1u)) >> 13, 0x7c00u);
  return {(uint16_t)(sign | size)};
}
