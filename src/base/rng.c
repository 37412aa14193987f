#include "base/rng.h"

#include "base/rng_core.h"

uint32_t rng_word(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index)
{
    uint32_t words[4];
    rng_block(seed, step, stream, (uint32_t)(index / 4), words);
    return words[index % 4];
}

static int32_t scale(uint32_t word, int32_t low, int32_t high)
{
    uint64_t width = (uint64_t)((int64_t)high - low);
    return (int32_t)(low + (int64_t)(word * width >> 32));
}

int32_t rng_integer(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index, int32_t low, int32_t high)
{
    return scale(rng_word(seed, step, stream, index), low, high);
}

int32_t rng_even(uint64_t seed, uint64_t index, int32_t low, int32_t high)
{
    const uint32_t golden = 0x9e3779b9; // 2^32 / 1.618..
    return scale(rng_word(seed, 0, STREAM_EVEN, 0) + (uint32_t)index * golden, low, high);
}

void rng_normals(uint64_t seed, uint64_t step, uint32_t stream, uint64_t first, int64_t count, float *out)
{
    for (int64_t done = 0; done < count;) {
        uint64_t number = first + (uint64_t)done;
        uint32_t words[4];
        float normals[4];
        rng_block(seed, step, stream, (uint32_t)(number / 4), words);
        rng_normal_pair(words, normals);
        rng_normal_pair(words + 2, normals + 2);
        for (uint64_t i = number % 4; i < 4 && done < count; i++)
            out[done++] = normals[i];
    }
}
