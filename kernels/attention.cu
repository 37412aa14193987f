/* kernels/attention.cu
 *
 * Attention for heads of up to 160 channels (up to 64 where shared memory is small, before sm_80); the idea that it
 * shares with attention_wide.cu is in attention.h.
 *
 * Idea. A warp owns 16 queries, and a block's warps share the tiles of keys and values. Scores leave the matrix units
 * in the very layout in which weights enter them again, so they stay in registers.
 *
 *     global k, v ── copy_async, one tile ahead ─► shared: floats ── split ─► shared: pairs of 16 bits
 *     pairs ── ldmatrix ─► mma: scores = q kt ─► weights = 2^(score - largest) ── split ─► mma: sums += weights v
*
 * A warp's registers. Queries are rows, so that thread 4g + t (ptx.h) holds of queries g and g + 8:
 *
 *                  keys 16n + 2t, + 1      keys 16n + 8 + 2t, + 1       channels 8c + 2t, + 1
 *     query g      scores[2n][0], [1]      scores[2n + 1][0], [1]       sums[c][0], [1]        largest[0], total[0]
 *     query g + 8  scores[2n][2], [3]      scores[2n + 1][2], [3]       sums[c][2], [3]        largest[1], total[1]
 *
 * The two columns of scores, once they are weights in 16 bits, are a[0], a[1] and a[2], a[3] of the second product. A
 * query's scores are those of the four threads of g: a quad.
 */
#include "kernels/attention.h"

namespace
{

/* SIZE: the head's channels, rounded up to a multiple of 8. DEPTH: the same, rounded up to whole steps of the matrix
 * units. */
template <int SIZE> struct shape {
    static const int DEPTH = (SIZE + 15) / 16 * 16;
    static const int KEYS = SIZE <= 80 ? 32 : 16;
    static const int WARPS = SIZE <= 40 ? 6 : SIZE <= 80 ? 4 : 3;
    static const int STEPS = DEPTH / 16;
    static const int STRIDE = DEPTH + 8; /* 16-byte pieces of a row: an odd number, so that 8 rows share no bank */
    static const int PIECES = KEYS * DEPTH / 4;
    static const int THREADS = 32 * WARPS;
    static const int BLOCKS = SIZE <= 40 ? 2 : 1; /* blocks that registers must leave room for on a multiprocessor */
    static const bool PARKED = SIZE > 80;         /* queries do not fit in registers together with the sums */
};

enum { K, V };

template <int SIZE> struct pairs {
    uint16_t hi[2][shape<SIZE>::KEYS][shape<SIZE>::STRIDE], lo[2][shape<SIZE>::KEYS][shape<SIZE>::STRIDE];
};

template <int SIZE> struct attention_shared {
    typedef struct shape<SIZE> S;
    float raw[2][S::KEYS][S::DEPTH];
    struct pairs<SIZE> pairs[2]; /* of this tile, and of the one before for slower warps */
    uint4 queries[S::PARKED ? S::STEPS * 2 * S::THREADS : 1];
};

/* The warp's queries as fragments: in registers, or in shared memory, where each thread has its own places. */
template <int SIZE> struct queries {
    uint32_t hi[shape<SIZE>::PARKED ? 1 : shape<SIZE>::STEPS][4], lo[shape<SIZE>::PARKED ? 1 : shape<SIZE>::STEPS][4];
    uint4 *parked;
};

template <enum operand O, int SIZE>
__device__ void load_queries(struct queries<SIZE> *q, const struct attention_args &a, int query, int lane, int head)
{
    typedef struct shape<SIZE> S;
    const float *low = head_row(a.q, lane, query, head * a.size), *high = head_row(a.q, lane, query + 8, head * a.size);
#pragma unroll
    for (int k = 0; k < S::STEPS; k++) {
        int held = S::PARKED ? 0 : k;
        load_left<O>(q->hi[held], q->lo[held], low, high, k * 16, a.size);
        if (S::PARKED) {
            const uint32_t *hi = q->hi[0], *lo = q->lo[0];
            q->parked[(2 * k) * S::THREADS] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
            q->parked[(2 * k + 1) * S::THREADS] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
        }
    }
}

__device__ void unpark(uint32_t (&to)[4], const uint4 &from)
{
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
}

/* acc += channels [16 k, 16 k + 16) of the queries times a tile's. */
template <enum operand O, int SIZE>
__device__ void mma_queries(float (&acc)[2][4], const struct queries<SIZE> &q, int k, const uint32_t (&hi)[2][2],
                            const uint32_t (&lo)[2][2])
{
    typedef struct shape<SIZE> S;
    if (S::PARKED) {
        uint32_t q_hi[4], q_lo[4];
        unpark(q_hi, q.parked[(2 * k) * S::THREADS]);
        unpark(q_lo, q.parked[(2 * k + 1) * S::THREADS]);
        mma_pairs<O, 2>(acc, q_hi, q_lo, hi, lo);
    } else {
        mma_pairs<O, 2>(acc, q.hi[k], q.lo[k], hi, lo);
    }
}

/* Starts copying the tile of keys and values at `first`; zeros beyond the last key and the last channel. Each thread
 * later splits the pieces that it copied. */
template <int SIZE>
__device__ void fetch_tile(struct attention_shared<SIZE> *s, const struct attention_args &a, int first, int lane,
                           int head)
{
    typedef struct shape<SIZE> S;
#pragma unroll 1
    for (int which = K; which <= V; which++) {
        const struct view<const float> &from = which == K ? a.k : a.v;
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < S::PIECES; i += S::THREADS) {
            int row = i / (S::DEPTH / 4), channel = i % (S::DEPTH / 4) * 4;
            bool there = first + row < a.keys_end;
            const float *at = row_of(from, lane, there ? first + row : 0) + head * a.size;
            if (a.fours)
                copy_async<16>(&s->raw[which][row][channel], at + (channel < a.size ? channel : 0),
                               there && channel < a.size);
            else
                for (int j = channel; j < channel + 4; j++)
                    copy_async<4>(&s->raw[which][row][j], at + (j < a.size ? j : 0), there && j < a.size);
        }
    }
    copy_commit();
}

template <enum operand O, int SIZE>
__device__ void split_tile(struct pairs<SIZE> *to, const struct attention_shared<SIZE> *s)
{
    typedef struct shape<SIZE> S;
#pragma unroll 1
    for (int which = K; which <= V; which++)
#pragma unroll 2
        for (int i = (int)threadIdx.x; i < S::PIECES; i += S::THREADS) {
            int row = i / (S::DEPTH / 4), channel = i % (S::DEPTH / 4) * 4;
            float4 x = *(const float4 *)&s->raw[which][row][channel];
            uint2 hi, lo;
            split_two<O>(x.x, x.y, &hi.x, &lo.x);
            split_two<O>(x.z, x.w, &hi.y, &lo.y);
            *(uint2 *)&to->hi[which][row][channel] = hi;
            *(uint2 *)&to->lo[which][row][channel] = lo;
        }
}

/* Scores of the warp's queries with the tile's keys. */
template <enum operand O, int SIZE>
__device__ void score(float (&scores)[shape<SIZE>::KEYS / 8][4], const struct pairs<SIZE> *s,
                      const struct queries<SIZE> &q)
{
    typedef struct shape<SIZE> S;
    int row = (int)threadIdx.x % 32 / 16 * 8 + (int)threadIdx.x % 8, column = (int)threadIdx.x % 16 / 8 * 8;
#pragma unroll
    for (int n = 0; n < S::KEYS / 16; n++) {
        float acc[2][4] = {};
#pragma unroll
        for (int k = 0; k < S::STEPS; k++) {
            uint32_t four[4], hi[2][2], lo[2][2];
            load_matrices(four, &s->hi[K][n * 16 + row][k * 16 + column]);
            in_twos(hi, four);
            load_matrices(four, &s->lo[K][n * 16 + row][k * 16 + column]);
            in_twos(lo, four);
            mma_queries<O>(acc, q, k, hi, lo);
        }
        for (int i = 0; i < 8; i++)
            scores[2 * n + i / 4][i % 4] = acc[i / 4][i % 4];
    }
}

/* N tiles of 8 channels from tile n on: sums = sums * shrink + weights v. */
template <enum operand O, int SIZE, int N>
__device__ void add_channels(float (&sums)[SIZE / 8][4], const struct pairs<SIZE> *s,
                             const uint32_t (&w_hi)[shape<SIZE>::KEYS / 16][4],
                             const uint32_t (&w_lo)[shape<SIZE>::KEYS / 16][4], const float (&shrink)[2], int n)
{
    int row = (int)threadIdx.x % 16, column = n * 8 + (int)threadIdx.x % 32 / 16 * 8;
    float acc[N][4] = {};
#pragma unroll
    for (int k = 0; k < shape<SIZE>::KEYS / 16; k++) {
        uint32_t four[4], hi[N][2], lo[N][2];
        load_matrices_transposed(four, &s->hi[V][k * 16 + row][column]);
        in_twos(hi, four);
        load_matrices_transposed(four, &s->lo[V][k * 16 + row][column]);
        in_twos(lo, four);
        mma_pairs<O, N>(acc, w_hi[k], w_lo[k], hi, lo);
    }
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        sums[n + i / 4][i % 4] = fmaf(sums[n + i / 4][i % 4], shrink[i % 4 / 2], acc[i / 4][i % 4]);
}

/* sums = sums * shrink + weights v. */
template <enum operand O, int SIZE>
__device__ void add_values(float (&sums)[SIZE / 8][4], const struct pairs<SIZE> *s,
                           const float (&weights)[shape<SIZE>::KEYS / 8][4], const float (&shrink)[2])
{
    typedef struct shape<SIZE> S;
    uint32_t w_hi[S::KEYS / 16][4], w_lo[S::KEYS / 16][4];
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; k++)
        for (int i = 0; i < 4; i++)
            split_two<O>(weights[2 * k + i / 2][i % 2 * 2], weights[2 * k + i / 2][i % 2 * 2 + 1], &w_hi[k][i],
                         &w_lo[k][i]);
#pragma unroll
    for (int n = 0; n < SIZE / 8; n += 2)
        if (n + 1 < SIZE / 8)
            add_channels<O, SIZE, 2>(sums, s, w_hi, w_lo, shrink, n);
        else
            add_channels<O, SIZE, 1>(sums, s, w_hi, w_lo, shrink, n);
}

/* Block: WARPS x 16 queries of one head of one lane. */
template <enum operand O, int SIZE>
__global__ void __launch_bounds__(shape<SIZE>::THREADS, shape<SIZE>::BLOCKS) attend(const struct attention_args a)
{
    typedef struct shape<SIZE> S;
    struct attention_shared<SIZE> *s = (struct attention_shared<SIZE> *)shared_memory;
    int head = (int)blockIdx.y, lane = (int)blockIdx.z, block = (int)blockIdx.x * S::WARPS * QUERIES;
    int warp = block + (int)threadIdx.x / 32 * QUERIES, query = warp + (int)threadIdx.x % 32 / 4;
    int end = keys_seen(a, block, S::WARPS * QUERIES), warp_end = keys_seen(a, warp, QUERIES);
    fetch_tile(s, a, 0, lane, head);

    struct queries<SIZE> q;
    q.parked = s->queries + threadIdx.x;
    load_queries<O>(&q, a, query, lane, head);
    float sums[SIZE / 8][4] = {};
    struct softmax p = {{-INFINITY, -INFINITY}, {0, 0}};
    for (int first = 0; first < end; first += S::KEYS) {
        struct pairs<SIZE> *tile = &s->pairs[first / S::KEYS % 2];
        copy_wait<0>();
        split_tile<O>(tile, s);
        if (first + S::KEYS < end)
            fetch_tile(s, a, first + S::KEYS, lane, head);
        __syncthreads(); // the tile is whole, and all warps are done with the one before
        if (first >= warp_end)
            continue;
        float scores[S::KEYS / 8][4], shrink[2];
        score<O>(scores, tile, q);
        if (first + S::KEYS > a.keys_end || (a.causal && first + S::KEYS > warp))
            hide_keys(scores, a, first, query);
        weigh(&p, scores, shrink, a.scale);
        add_values<O>(sums, tile, scores, shrink);
    }
    float share[2];
    for (int r = 0; r < 2; r++)
        share[r] = 1 / sum_over_quad(p.total[r]);
    store_sums(a, sums, share, query, lane, head, 0, a.size);
}

/* -------------------------------------------------------------------------------- launcher */

template <enum operand O, int SIZE> void start(struct device *device, int heads, const struct attention_args &a)
{
    typedef struct shape<SIZE> S;
    dim3 grid((unsigned)blocks_for(a.q.positions, S::WARPS * QUERIES), (unsigned)heads, (unsigned)a.q.lanes);
    launch(device, "attend", attend<O, SIZE>, grid, S::THREADS, sizeof(struct attention_shared<SIZE>), a);
}

template <enum operand O> void choose(struct device *device, int heads, const struct attention_args &a)
{
    static const struct {
        int most, capability; /* largest head, and the compute capability whose shared memory it needs */
        void (*start)(struct device *device, int heads, const struct attention_args &a);
    } kinds[] = {{32, 75, start<O, 32>},
                 {40, 75, start<O, 40>},
                 {64, 75, start<O, 64>},
                 {80, 80, start<O, 80>},
                 {160, 80, start<O, 160>}};
    for (const auto &kind : kinds)
        if (a.size <= kind.most && cuda_of(device)->capability >= kind.capability) {
            kind.start(device, heads, a);
            return;
        }
    attention_wide(device, heads, a);
}

bool readable_in_fours(struct tensor t, int64_t size)
{
    return (uintptr_t)tensor_data(t) % 16 == 0 && t.row_stride % 4 == 0 && t.lane_stride % 4 == 0 && size % 4 == 0;
}

} // namespace

void cuda_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                    int64_t heads, bool causal)
{
    int64_t size = q.channels / heads;
    struct attention_args a = {};
    a.y = view_of<float>(y);
    a.q = view_of<const float>(q);
    a.k = view_of<const float>(k);
    a.v = view_of<const float>(v);
    a.size = (int)size;
    a.keys_end = a.k.positions;
    a.causal = causal;
    a.fours = readable_in_fours(k, size) && readable_in_fours(v, size);
    a.scale = (float)(1.4426950408889634 / sqrt((double)size));
    if (device->tangents.of.base)
        attention_tangent(device, y, k, heads, a);
    else if (cuda_of(device)->operand == HALF)
        choose<HALF>(device, (int)heads, a);
    else
        choose<BFLOAT>(device, (int)heads, a);
}
