// Target assignment without the IoU matrix: see assignment.py for what it means.
//
// assign_best: one thread an anchor of an image. It visits the image's boxes, TILE at a time in shared memory, writes
// its label and code, and offers itself to each box it overlaps. An offer is a 64-bit key, IoU bits above ~anchor: the
// greatest key is the best anchor, the lowest of equals, and a maximum does not depend on the order of the atomics.
// assign_forced: one block an image. Each box takes the anchor it was offered, and label, code and count are put right.
#define BLOCK 256
#define TILE 128

// The operations of iou_with_all in assignment_grid.py, in their order. __fmul_rn keeps the compiler from fusing a
// product with the sum after it, which would round once less; "/" is rounded correctly while nobody adds fast-math.
__device__ __forceinline__ float box_area(float4 b) { return __fmul_rn(b.z - b.x, b.w - b.y); }

__device__ __forceinline__ float box_iou(float4 a, float area_a, float4 b, float area_b) {
  float width = fmaxf(fminf(a.z, b.z) - fmaxf(a.x, b.x), 0.f);
  float height = fmaxf(fminf(a.w, b.w) - fmaxf(a.y, b.y), 0.f);
  float common = __fmul_rn(width, height);
  if (!(common > 0.f)) return 0.f;  // most pairs: they are spared the division
  float both = (area_a + area_b) - common;
  return common / (both < 1e-12f ? 1e-12f : both);  // not fmaxf: a NaN must stay one, it is no overlap
}

__device__ __forceinline__ u64 offer(float iou, int anchor) {
  return (u64)__float_as_uint(iou) << 32 | (u64)(0xffffffffu - (unsigned)anchor);
}
__device__ __forceinline__ unsigned offered_anchor(u64 key) { return 0xffffffffu - (unsigned)key; }  // of 0: none

// raydet.boxes.encode: halving is exact, so only logf can round otherwise than PyTorch.
__device__ __forceinline__ float4 box_code(float4 b, float4 a) {
  float width = (a.z - a.x) + 1e-8f, height = (a.w - a.y) + 1e-8f;
  float4 code;
  code.x = ((b.x + b.z) * 0.5f - (a.x + a.z) * 0.5f) / width;
  code.y = ((b.y + b.w) * 0.5f - (a.y + a.w) * 0.5f) / height;
  code.z = logf(((b.z - b.x) + 1e-8f) / width);
  code.w = logf(((b.w - b.y) + 1e-8f) / height);
  return code;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
assign_best(const float4* __restrict__ anchors, const float4* __restrict__ boxes, const i64* __restrict__ classes,
            i64* __restrict__ labels, float4* __restrict__ codes, u64* __restrict__ positives, u64* __restrict__ offers,
            int num_anchors, int num_boxes, float match_iou) {
  __shared__ float4 box[TILE];
  __shared__ float area[TILE];
  __shared__ u64 top[TILE];
  __shared__ int filled;
  unsigned blocks = (num_anchors + BLOCK - 1) / BLOCK;  // of an image; images and blocks share x, y ends at 65535
  i64 image = blockIdx.x / blocks;
  int anchor = (int)(blockIdx.x % blocks) * BLOCK + (int)threadIdx.x;
  bool exists = anchor < num_anchors;
  float4 mine = exists ? anchors[anchor] : make_float4(0.f, 0.f, 0.f, 0.f);
  float my_area = box_area(mine), best = 0.f;
  int owner = -1;
  for (int first = 0; first < num_boxes; first += TILE) {
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    int slot = threadIdx.x;
    i64 row = image * num_boxes + first + slot;
    bool real = slot < TILE && slot < num_boxes - first && classes[row] >= 0;
    if (slot < TILE) {
      float4 b = real ? boxes[row] : make_float4(0.f, 0.f, 0.f, 0.f);  // an empty box overlaps nothing
      box[slot] = b;
      area[slot] = box_area(b);
      top[slot] = 0ull;
    }
    if (real) atomicMax(&filled, slot + 1);  // padding comes last as a rule: most of it is not visited
    __syncthreads();
    if (exists) {
#pragma unroll 1  // unrolled, the divisions' slow paths cost a spill on sm_90; the other warps hide the latency
      for (int g = 0; g < filled; g++) {
        float iou = box_iou(mine, my_area, box[g], area[g]);
        if (!(iou > 0.f)) continue;
        if (iou > best) {
          best = iou;
          owner = first + g;
        }
        u64 key = offer(iou, anchor);
        if (key > ((volatile u64*)top)[g]) atomicMax(&top[g], key);  // a stale look costs an atomic, no more
      }
    }
    __syncthreads();
    if (real && top[slot]) atomicMax(&offers[row], top[slot]);
    // `filled` was last read before the barrier above, `top` is reset by the thread that has just read it.
  }
  bool positive = exists && owner >= 0 && best >= match_iou;
  if (exists) {
    i64 spot = image * num_anchors + anchor, row = image * num_boxes + owner;
    labels[spot] = positive ? classes[row] : -1;
    codes[spot] = positive ? box_code(boxes[row], mine) : make_float4(0.f, 0.f, 0.f, 0.f);
  }
  int found = __syncthreads_count(positive);
  if (threadIdx.x == 0 && found) atomicAdd(&positives[image], (u64)found);
}

// Give box m, whose best anchor an earlier box has, the best of those no earlier box has; the offer 0 if it meets none.
// All threads of the block come here together.
__device__ __forceinline__ void choose_again(const float4* __restrict__ anchors, float4 box, u64* offers, int m,
                                             int num_anchors) {
  __shared__ u64 top;
  if (threadIdx.x == 0) top = 0ull;
  __syncthreads();
  float area = box_area(box);
  u64 best = 0ull;
  for (int anchor = threadIdx.x; anchor < num_anchors; anchor += BLOCK) {
    float4 a = anchors[anchor];
    float iou = box_iou(a, box_area(a), box, area);
    u64 key = offer(iou, anchor);
    if (!(iou > 0.f) || key <= best) continue;
    bool taken = false;  // looked up only for what would be a new best
    for (int o = 0; o < m && !taken; o++) taken = offered_anchor(offers[o]) == (unsigned)anchor;
    if (!taken) best = key;
  }
  if (best) atomicMax(&top, best);
  __syncthreads();
  if (threadIdx.x == 0) offers[m] = top;
  __syncthreads();  // all read the new offer from here on
}

extern "C" __global__ void __launch_bounds__(BLOCK)
assign_forced(const float4* __restrict__ anchors, const float4* __restrict__ boxes, const i64* __restrict__ classes,
              i64* __restrict__ labels, float4* __restrict__ codes, u64* __restrict__ positives, u64* all_offers,
              int num_anchors, int num_boxes, int distinct) {
  i64 image = blockIdx.x, rows = image * num_boxes;
  u64* offers = all_offers + rows;  // not const: choose_again writes them, so no load of them may be cached read-only
  for (int m = 1; distinct && m < num_boxes; m++) {
    u64 key = offers[m];
    if (!key) continue;  // the same in all threads, like all that leads to a barrier here
    bool taken = false;
    for (int o = threadIdx.x; o < m; o += BLOCK) taken |= offered_anchor(offers[o]) == offered_anchor(key);
    if (__syncthreads_or(taken)) choose_again(anchors, boxes[rows + m], offers, m, num_anchors);
  }
  for (int m = threadIdx.x; m < num_boxes; m += BLOCK) {
    u64 key = offers[m];
    bool claims = key != 0ull;
    for (int o = 0; o < m && claims; o++) claims = offered_anchor(offers[o]) != offered_anchor(key);
    if (!claims) continue;  // an earlier box has the anchor
    unsigned anchor = offered_anchor(key);
    i64 spot = image * num_anchors + anchor;
    if (labels[spot] < 0) atomicAdd(&positives[image], 1ull);
    labels[spot] = classes[rows + m];
    codes[spot] = box_code(boxes[rows + m], anchors[anchor]);
  }
}
