// CUDA C++ on the host, for tests only: enough of it to build our kernels with g++ and run them, one block at a time.
//
// A thread is a fiber. It runs until it must wait for others (a barrier, a warp collective) or is done, and no two run
// at once: what happens depends on `order` alone, 0 forward, 1 backward, else shuffled, for threads and blocks alike.
// In another order a missing barrier, a sum by float atomics or a read of uninitialised shared memory gives other bits;
// a barrier in a branch, a lane that never comes and a deadlock are errors that name the line. Not seen: what a GPU's
// threads see of each other without a fence, fast-math rounding, fma, flushed denormals.
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// One block runs at a time, so a static variable is the block's own. The section lets us fill all of them before each
// block (the linker names its ends); `used` keeps g++ from taking one that is never written for the constant 0.
#define __shared__ static __attribute__((section("shared_memory"), used))
extern "C" __attribute__((weak, visibility("hidden"))) char __start_shared_memory[], __stop_shared_memory[];
struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {
const uint64_t EVERY = ~0ull;  // a barrier of the block, in place of a mask of 32 lanes
enum State { GONE, READY, WAITING };
struct Thread {
  State state; int number;
  // What it waits with: the lanes it named, its line, a vote, a value, and the lane whose value it asks for.
  uint64_t mask; std::string_view where; unsigned vote; uint64_t value; int source;
  unsigned votes; uint64_t result;  // what it gets: the sum of all votes, and that value
  int lane() const { return number & 31; }
  Thread* warp() { return this - lane(); }
  bool waits_for_lanes() const { return state == WAITING && mask != EVERY; }
};
static struct Fiber { char stack[64 << 10]; ucontext_t start; jmp_buf at; } fibers[1024];  // one a thread of a block
static bool begun[1024];
static std::vector<Thread> threads;  // of whole warps: what the last one lacks is gone from the start
static Thread* current;
static jmp_buf scheduler;
static std::function<void()> body;
static std::string error;  // the first one; it ends the launch
template <class... Parts> void fail(const Parts&... parts) { if (error.empty()) ((error += parts), ...); }
inline void wait() { if (_setjmp(fibers[current->number].at) == 0) _longjmp(scheduler, 1); }  // until resumed
inline Thread& meet(std::string_view where, uint64_t mask, bool predicate, uint64_t value = 0, int source = -1) {
  int lane = current->lane();
  if (!(mask >> lane & 1)) fail("a lane is not in the mask it names at ", where);
  if (source < 0 || source > 31) source = lane;  // past either end of the warp a lane gets its own value back
  unsigned vote = (unsigned)predicate << (mask == EVERY ? 0 : lane);  // the sum is a count, or bits
  *current = {WAITING, current->number, mask, where, vote, value, source};
  wait();
  return *current;
}
template <class To, class From> To bits_as(From v) { union { From from; To to; } bits = {v}; return bits.to; }
template <class T> T shuffle(std::string_view where, unsigned mask, T value, int source) {
  return bits_as<T>(meet(where, mask, false, bits_as<uint64_t>(value), source).result);
}
// Let those that `mask` names go on, if all are there. What has returned is not waited for, as on GPUs since Volta.
inline bool release(Thread* first, size_t count, uint64_t mask) {
  std::vector<Thread*> group;
  unsigned votes = 0;
  for (Thread* t = first; t < first + count; t++) if (t->state != GONE && mask >> t->lane() & 1) group.push_back(t);
  for (Thread* t : group) if (t->state != WAITING || t->mask != mask) return false;
  for (Thread* t : group) {
    if (t->where != group[0]->where)
      fail(mask == EVERY ? "barrier reached from " : "a warp's lanes meet at ", group[0]->where, " and ", t->where);
    const Thread& source = t->warp()[t->source];
    if (source.state == GONE || !(mask >> t->source & 1)) fail("shuffle from an inactive lane at ", t->where);
    t->result = source.value, votes += t->vote;
  }
  for (Thread* t : group) t->votes = votes, t->state = READY;
  return !group.empty();
}
// Every thread waits or is gone: let those go on that can. False if there are none.
inline bool release_all() {
  bool some = false;
  for (Thread& t : threads) if (t.waits_for_lanes()) some |= release(t.warp(), 32, t.mask);
  if (some || release(threads.data(), threads.size(), EVERY)) return true;
  for (Thread& t : threads)
    for (Thread* mate = t.warp(); t.waits_for_lanes() && mate < t.warp() + 32; mate++)
      if (mate->waits_for_lanes() && t.mask >> mate->lane() & 1 && mate->mask != t.mask)
        fail("lanes of a warp named different masks at ", t.where);
  for (Thread& t : threads) if (t.state == WAITING) fail("deadlock: others never come to ", t.where);
  return false;
}
inline uint3 position(unsigned i, uint3 size) { return {i % size.x, i / size.x % size.y, i / size.x / size.y}; }
inline void run_fiber() { for (;; wait()) body(), current->state = GONE; }
inline void resume(Thread& thread) {
  current = &thread;
  threadIdx = position(thread.number, blockDim);
  Fiber& fiber = fibers[thread.number];
  if (_setjmp(scheduler)) return;
  if (std::exchange(begun[thread.number], true)) _longjmp(fiber.at, 1);  // unlike swapcontext, no system call
  getcontext(&fiber.start);
  fiber.start.uc_stack = {fiber.stack, 0, sizeof fiber.stack};
  makecontext(&fiber.start, run_fiber, 0);
  setcontext(&fiber.start);
}
template <class T> void arrange(std::vector<T>& items, int order, std::mt19937& random) {
  if (order == 1) std::reverse(items.begin(), items.end());
  if (order > 1) std::shuffle(items.begin(), items.end(), random);
}
inline void run_block(int order, std::mt19937& random) {
  int count = blockDim.x * blockDim.y * blockDim.z;
  unsigned filling = order ? random() : 0;  // zeros hide most: once is enough
  for (char* p = __start_shared_memory; p < __stop_shared_memory; p++) *p = filling >> 8 * ((uintptr_t)p & 3);
  threads.clear();
  for (int i = 0; i < (count + 31) / 32 * 32; i++) threads.push_back({i < count ? READY : GONE, i});
  do {
    std::vector<Thread*> turn;
    for (Thread& t : threads) if (t.state == READY) turn.push_back(&t);
    arrange(turn, order, random);
    for (Thread* t : turn) if (error.empty()) resume(*t);
  } while (error.empty() && release_all());
}
template <class... A> const char* launch(void (*kernel)(A...), const uint3* sizes, void** values, int order) {
  std::tuple<A...> arguments{*(A*)*values++...};
  body = [=] { std::apply(kernel, arguments); };
  gridDim = sizes[0], blockDim = sizes[1];
  error.clear();
  std::fill_n(begun, 1024, false);  // a launch that failed left some midway
  std::mt19937 random(order);
  std::vector<unsigned> blocks;
  for (unsigned b = 0; b < gridDim.x * gridDim.y * gridDim.z; b++) blocks.push_back(b);
  arrange(blocks, order, random);
  for (unsigned b : blocks) if (error.empty()) blockIdx = position(b, gridDim), run_block(order, random);
  return error.c_str();
}
template <class T> const char letter = std::is_pointer_v<T> ? 'p' : std::is_same_v<T, float> ? 'f'
  : std::is_same_v<T, double> ? 'd' : sizeof(T) == 4 ? 'i' : sizeof(T) == 8 ? 'l' : '?';
template <class... A> const char* letters(void (*)(A...)) { static char text[] = {letter<A>..., 0}; return text; }
}  // namespace host
// What g++ checks at each access and operation (-fsanitize in harness.py) ends here; the first member says where.
struct Checked { const char* file; unsigned line, column; };
#define CHECK(name, message)                                                                                       \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(Checked* at, uintptr_t, uintptr_t) { \
    host::fail(message " at ", at->file, ":", std::to_string(at->line)), host::wait();                             \
  }
CHECK(type_mismatch_v1, "misaligned or null address")
CHECK(out_of_bounds, "index beyond its array")
CHECK(shift_out_of_bounds, "shift by more bits than there are")
CHECK(divrem_overflow, "integer division by zero")

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
#define HERE __FILE__ ":" TEXT(__LINE__)
#define __syncthreads() ((void)host::meet(HERE, host::EVERY, false))
#define __syncthreads_count(p) ((int)host::meet(HERE, host::EVERY, p).votes)
#define __syncthreads_or(p) (__syncthreads_count(p) != 0)
#define __syncthreads_and(p) (__syncthreads_count(!(p)) == 0)
#define __ballot_sync(mask, p) (host::meet(HERE, (unsigned)(mask), p).votes)
#define __any_sync(mask, p) (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p) (__ballot_sync(mask, !(p)) == 0)
#define __shfl_sync(mask, v, from) host::shuffle(HERE, mask, v, (from) & 31)
#define __shfl_xor_sync(mask, v, bits) host::shuffle(HERE, mask, v, host::current->lane() ^ (bits))
#define __shfl_down_sync(mask, v, by) host::shuffle(HERE, mask, v, host::current->lane() + (int)(by))
#define __shfl_up_sync(mask, v, by) host::shuffle(HERE, mask, v, host::current->lane() - (int)(by))
inline void __threadfence() {}
// Threads take turns, so an atomic is an ordinary read and write. Its type is the address's; the value is converted.
template <class T> T atomicAdd(T* p, std::common_type_t<T> v) { return std::exchange(*p, *p + v); }
template <class T> T atomicMax(T* p, std::common_type_t<T> v) { return std::exchange(*p, std::max(*p, v)); }
// Of integers. A kernel calls fmaxf by name for floats, where NaN loses.
template <class T> std::enable_if_t<std::is_integral_v<T>, T> max(T a, T b) { return std::max(a, b); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __expf(float v) { return expf(v); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __uint_as_float(unsigned v) { return host::bits_as<float>(v); }
inline unsigned __float_as_uint(float v) { return host::bits_as<unsigned>(v); }
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
inline __nv_bfloat16 __float2bfloat16(float v) {
  unsigned bits = __float_as_uint(v);
  return {(uint16_t)(v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, the even one of two
}
inline float __half2float(__half v) {
  int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
  float size = exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
  if (exponent == 31) size = fraction ? NAN : INFINITY;
  return v.bits >> 15 ? -size : size;
}
inline __half __float2half(float v) {
  float size = fminf(fabsf(v), 65536.0f);  // the least that is infinite as a half
  int exponent = std::max(ilogbf(size), -14);  // subnormal halves have the steps of the least normal ones
  int bits = (exponent + 14) * 1024 + lrintf(ldexpf(size, 10 - exponent));  // lrintf: to nearest, the even one of two
  return {(uint16_t)(v != v ? 0x7fff : bits | std::signbit(v) << 15)};
}
