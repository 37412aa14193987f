/* device/cpu/kernels_transpose.h
 *
 * Rows to the columns of a panel and back, for kernels.c, in squares of WIDTH vectors: one number at a time would write
 * to another cache line each time.
 */

/* The elements of a and b in turn: those of their first halves, those of their second halves. */
static inline void interleave(vec *first, vec *second, vec a, vec b)
{
#if defined(__AVX512F__)
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    *first = (vec)_mm512_permutex2var_ps((__m512)a, low, (__m512)b);
    *second = (vec)_mm512_permutex2var_ps((__m512)a, high, (__m512)b);
#elif defined(__AVX2__)
    __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    *first = (vec)_mm256_permute2f128_ps(low, high, 0x20);
    *second = (vec)_mm256_permute2f128_ps(low, high, 0x31);
#else
    *first = (vec){a[0], b[0], a[1], b[1]};
    *second = (vec){a[2], b[2], a[3], b[3]};
#endif
}

/* Each round takes a bit of the row's number to the column's, and one back. */
static inline __attribute__((always_inline)) void transpose(vec v[WIDTH])
{
#pragma GCC unroll 4
    for (int bit = 1; bit < WIDTH; bit *= 2) {
        vec from[WIDTH];
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            from[i] = v[i];
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH / 2; i++)
            interleave(v + 2 * i, v + 2 * i + 1, from[i], from[i + WIDTH / 2]);
    }
}

static void rows_to_panel(float *to, const float *from, int64_t stride, int64_t rows, int64_t count, float factor)
{
    for (int64_t first = 0; first < PANEL; first += WIDTH)
        for (int64_t k = 0; k < count; k += WIDTH) {
            vec v[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) {
                int64_t row = first + i < rows ? first + i : rows - 1;
                v[i] = load_some(from + row * stride + k, count - k) * splat(factor);
            }
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                if (k + i < count)
                    store(to + (k + i) * PANEL + first, v[i]);
        }
}

static void panel_to_rows(float *to, int64_t stride, int64_t rows, const float *from, int64_t count,
                          const float *divisor)
{
    for (int64_t first = 0; first < rows; first += WIDTH) {
        vec factor = splat(1.f) / load(divisor + first);
        for (int64_t k = 0; k < count; k += WIDTH) {
            vec v[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                v[i] = k + i < count ? load(from + (k + i) * PANEL + first) * factor : splat(0.f);
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                if (first + i < rows)
                    store_some(to + (first + i) * stride + k, v[i], count - k);
        }
    }
}
