// cuemu.h - run a CUDA kernel source on the host, one block after the other (tests only).
// Threads of a block are fibers: ucontext starts one, _setjmp/_longjmp switch (no system call).
// Checks a GPU does not give: barrier reached from two source lines, warp-mask mismatch,
// deadlock, shuffle from an inactive lane. Thread and block order can be permuted by seed, so
// that a missing __syncthreads() or an order-dependent reduction shows up as a wrong answer.
// Not modelled: memory ordering, ftz/fast-math rounding, occupancy, cross-block spinning.
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>
#define ON_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static               // blocks run one at a time in one OS thread
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };   struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };  struct alignas(8) uint2 { unsigned x, y; };
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline float2 make_float2(float a, float b) { return {a, b}; }
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace emu {
enum State { FRESH, READY, AT_BLOCK, AT_WARP, DONE };
struct Fiber { ucontext_t uc; jmp_buf env; std::vector<char> stack; bool started = false; };
struct Thr { uint3 idx; int lin, line; State st; Fiber* fib; unsigned mask, peers; uint64_t snap[32]; };
struct Warp { uint64_t slot[32]; unsigned arrived, live; };
static std::vector<Thr> thr; static std::vector<Warp> warps; static std::vector<int> order;
static std::vector<Fiber*> idle; static std::vector<Thr*> ready;
static Thr* cur; static Fiber* curf; static jmp_buf sched; static ucontext_t sched_uc;
static size_t next_fresh; static int live, arrived, bar_line, acc_or, acc_and, acc_cnt, res_or, res_and, res_cnt;
static void (*body)(void*); static void* body_args; static std::string err; static bool failed;

[[noreturn]] static void to_sched() { _longjmp(sched, 1); }
static void fail(const std::string& m) { if (!failed) { failed = true; err = m; } to_sched(); }
static void yield() { Fiber* f = curf; if (!_setjmp(f->env)) to_sched(); }
static void wake(Thr& t) { if (&t != cur) { t.st = READY; ready.push_back(&t); } else t.st = READY; }
static bool release_block() {
  if (!arrived || arrived != live) return false;
  res_or = acc_or; res_and = acc_and; res_cnt = acc_cnt; arrived = acc_or = acc_cnt = 0; acc_and = 1;
  for (int i : order) if (thr[i].st == AT_BLOCK) wake(thr[i]);
  return true;
}
static bool release_warp(Warp& w, int base, unsigned mask) {
  unsigned need = mask & w.live;
  if (!need || (w.arrived & need) != need) return false;
  for (int l = 0; l < 32; l++) if (need >> l & 1) { Thr& t = thr[base + l];
    if (t.mask != mask) fail("warp collective: lanes named different masks, line " + std::to_string(t.line));
    if (t.line != thr[base + __builtin_ctz(need)].line) fail("warp collective reached from lines " + std::to_string(t.line) + " and " + std::to_string(thr[base + __builtin_ctz(need)].line)); }
  for (int l = 0; l < 32; l++) if (need >> l & 1) { Thr& t = thr[base + l]; memcpy(t.snap, w.slot, sizeof w.slot); t.peers = need; wake(t); }
  w.arrived &= ~need;
  return true;
}
static void barrier(int line, int pred = 0) {
  if (arrived && bar_line != line) fail("__syncthreads() reached from lines " + std::to_string(bar_line) + " and " + std::to_string(line));
  bar_line = cur->line = line; cur->st = AT_BLOCK; arrived++; acc_or |= !!pred; acc_and &= !!pred; acc_cnt += !!pred;
  if (!release_block()) yield();
}
template <class T> const uint64_t* exchange(unsigned mask, T v, int line) {
  static_assert(sizeof(T) <= 8, "warp collectives take up to 8 bytes");
  int lane = cur->lin & 31, base = cur->lin & ~31; Warp& w = warps[cur->lin / 32];
  if (!(mask >> lane & 1)) fail("warp collective: caller not in its own mask, line " + std::to_string(line));
  w.slot[lane] = 0; memcpy(&w.slot[lane], &v, sizeof v);
  cur->mask = mask; cur->line = line; cur->st = AT_WARP; w.arrived |= 1u << lane;
  if (!release_warp(w, base, mask)) yield();
  return cur->snap;
}
template <class T> T shfl(unsigned mask, T v, int src, int line) {
  const uint64_t* s = exchange(mask, v, line);
  if (!(cur->peers >> src & 1)) fail("shuffle from an inactive lane, line " + std::to_string(line));
  T r; memcpy(&r, &s[src], sizeof r); return r;
}
inline unsigned ballot(unsigned mask, bool p, int line) {
  unsigned r = 0; const uint64_t* s = exchange<int>(mask, p, line);
  for (int l = 0; l < 32; l++) if (cur->peers >> l & 1 && s[l]) r |= 1u << l;
  return r;
}
static void fiber_main() {
  for (;;) {
    while (next_fresh < thr.size()) {
      cur = &thr[order[next_fresh++]]; cur->fib = curf; cur->st = READY; threadIdx = cur->idx;
      body(body_args);
      Thr& t = *cur; t.st = DONE; live--; Warp& w = warps[t.lin / 32]; w.live &= ~(1u << (t.lin & 31));
      cur = nullptr; release_block();
      for (unsigned a = w.arrived; a; a = w.arrived & (a - 1)) if (release_warp(w, t.lin & ~31, thr[(t.lin & ~31) + __builtin_ctz(a)].mask)) break;
    }
    idle.push_back(curf); yield();
  }
}
static void resume(Fiber* f) {
  curf = f;
  if (_setjmp(sched)) return;
  if (f->started) _longjmp(f->env, 1);
  f->started = true; f->stack.resize(128 << 10); getcontext(&f->uc);
  f->uc.uc_stack.ss_sp = f->stack.data(); f->uc.uc_stack.ss_size = f->stack.size(); f->uc.uc_link = nullptr;
  makecontext(&f->uc, fiber_main, 0); setcontext(&f->uc);
}
static void run_block(std::mt19937& rng, int seed) {
  unsigned n = blockDim.x * blockDim.y * blockDim.z;
  thr.resize(n); warps.assign((n + 31) / 32, Warp{}); order.resize(n); ready.clear();
  for (unsigned i = 0; i < n; i++) {
    thr[i].idx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thr[i].lin = i; thr[i].st = FRESH; warps[i / 32].live |= 1u << (i & 31); order[i] = i; }
  if (seed == 1) std::reverse(order.begin(), order.end());
  if (seed > 1) std::shuffle(order.begin(), order.end(), rng);
  live = n; arrived = acc_or = acc_cnt = 0; acc_and = 1; next_fresh = 0;
  while (live && !failed) {
    if (next_fresh < thr.size()) {
      if (idle.empty()) idle.push_back(new Fiber);
      Fiber* f = idle.back(); idle.pop_back(); cur = nullptr; resume(f);
    } else if (!ready.empty()) {
      std::vector<Thr*> batch; batch.swap(ready);
      if (seed == 1) std::reverse(batch.begin(), batch.end());
      if (seed > 1) std::shuffle(batch.begin(), batch.end(), rng);
      for (Thr* t : batch) { if (failed) break; cur = t; threadIdx = t->idx; resume(t->fib); }
    } else { failed = true; err = "deadlock: no thread can run (a barrier or warp mask was not reached by all)"; }
  }
}
template <class... A> struct Args { void (*k)(A...); void** a; };
template <class... A, size_t... I> void call(Args<A...>& p, std::index_sequence<I...>) { p.k(*(std::remove_cv_t<A>*)p.a[I]...); }
template <class... A> const char* launch(void (*k)(A...), const unsigned* d, void** a, int seed) {
  gridDim = {d[0], d[1], d[2]}; blockDim = {d[3], d[4], d[5]}; failed = false; err.clear();
  if (d[3] * d[4] * d[5] > 1024) { err = "more than 1024 threads in a block"; return err.c_str(); }
  Args<A...> p{k, a}; body_args = &p;
  body = [](void* q) { call(*(Args<A...>*)q, std::index_sequence_for<A...>{}); };
  std::mt19937 rng(seed); size_t nb = (size_t)d[0] * d[1] * d[2]; std::vector<size_t> bo(nb);
  for (size_t i = 0; i < nb; i++) bo[i] = i;
  if (seed == 1) std::reverse(bo.begin(), bo.end());
  if (seed > 1) std::shuffle(bo.begin(), bo.end(), rng);
  for (size_t b : bo) { blockIdx = {unsigned(b % d[0]), unsigned(b / d[0] % d[1]), unsigned(b / d[0] / d[1])}; run_block(rng, seed); if (failed) break; }
  return err.c_str();
}
template <class T> constexpr char code() { return std::is_pointer_v<T> ? 'p' : std::is_same_v<T, float> ? 'f' : std::is_same_v<T, double> ? 'd' : sizeof(T) == 8 ? 'l' : sizeof(T) == 4 ? 'i' : '?'; }
template <class... A> const char* sig(void (*)(A...)) { static const char s[] = {code<A>()..., 0}; return s; }
}  // namespace emu
#define EMU_KERNEL(k) extern "C" const char* emu_##k(const unsigned* d, void** a, int s) { return emu::launch(k, d, a, s); } \
  extern "C" const char* emusig_##k() { return emu::sig(k); }

#define __syncthreads() emu::barrier(__LINE__)
#define __syncthreads_or(p) (emu::barrier(__LINE__, p), emu::res_or)
#define __syncthreads_and(p) (emu::barrier(__LINE__, p), emu::res_and)
#define __syncthreads_count(p) (emu::barrier(__LINE__, p), emu::res_cnt)
#define __syncwarp(...) ((void)emu::exchange<int>(emu::mask_or_all(__VA_ARGS__), 0, __LINE__))
#define __shfl_sync(m, v, s) emu::shfl(m, v, (s) & 31, __LINE__)
#define __shfl_xor_sync(m, v, x) emu::shfl(m, v, (emu::cur->lin & 31) ^ (x), __LINE__)
#define __shfl_down_sync(m, v, d) emu::shfl(m, v, (emu::cur->lin & 31) + int(d) > 31 ? (emu::cur->lin & 31) : (emu::cur->lin & 31) + int(d), __LINE__)
#define __shfl_up_sync(m, v, d) emu::shfl(m, v, (emu::cur->lin & 31) < int(d) ? (emu::cur->lin & 31) : (emu::cur->lin & 31) - int(d), __LINE__)
#define __ballot_sync(m, p) emu::ballot(m, p, __LINE__)
#define __any_sync(m, p) (emu::ballot(m, p, __LINE__) != 0)
#define __all_sync(m, p) (emu::ballot(m, !(p), __LINE__) == 0)
namespace emu { inline unsigned mask_or_all(unsigned m = ~0u) { return m; } }
inline void __threadfence() {}  inline void __threadfence_block() {}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T atomicAdd(T* p, T v) { T o = *p; *p = o + v; return o; }
template <class T> T atomicMax(T* p, T v) { T o = *p; *p = max(o, v); return o; }
template <class T> T atomicMin(T* p, T v) { T o = *p; *p = min(o, v); return o; }
template <class T> T atomicOr(T* p, T v) { T o = *p; *p = o | v; return o; }
template <class T> T atomicExch(T* p, T v) { T o = *p; *p = v; return o; }
template <class T> T atomicCAS(T* p, T c, T v) { T o = *p; if (o == c) *p = v; return o; }
inline float __expf(float x) { return std::exp(x); }      inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; } inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __fmul_rn(float a, float b) { return a * b; } inline float __fadd_rn(float a, float b) { return a + b; }
inline int __popc(unsigned v) { return __builtin_popcount(v); } inline int __popcll(uint64_t v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }      inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
struct __half { uint16_t x; };  struct __nv_bfloat16 { uint16_t x; };
inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(unsigned(h.x) << 16); }
inline __nv_bfloat16 __float2bfloat16(float f) { unsigned u = __float_as_uint(f);
  return {uint16_t(f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16)}; }
inline float __half2float(__half h) { unsigned s = unsigned(h.x & 0x8000) << 16, e = h.x >> 10 & 31, m = h.x & 1023;
  if (e == 0) { float f = m * 0x1p-24f; return s ? -f : f; }
  return __uint_as_float(s | (e == 31 ? 0x7f800000u | m << 13 : (e + 112) << 23 | m << 13)); }
inline __half __float2half(float f) { unsigned u = __float_as_uint(f), s = u >> 16 & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000u) return {0x7fff};                         // NaN, as the device does
  if (a >= 0x477ff000u) return {uint16_t(s | 0x7c00)};          // rounds to infinity
  if (a < 0x38800000u) return {uint16_t(s | unsigned(std::nearbyint(std::fabs(f) * 0x1p24f)))};   // subnormal
  return {uint16_t(s | ((a + 0xfff + (a >> 13 & 1)) >> 13) - (112u << 10))}; }
