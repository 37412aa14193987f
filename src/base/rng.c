#include "base/rng.h"

#include "base/rng_core.h"

uint32_t rng_word(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index)
{
    uint32_t words[4];
    rng_block(seed, step, stream, (uint32_t)(index / 4), words);
    return words[index % 4];
}

int32_t rng_integer(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index, int32_t low, int32_t high)
{
    uint64_t width = (uint64_t)((int64_t)high - low);
    uint32_t word = rng_word(seed, step, stream, index);
    return (int32_t)(low + (int64_t)(word * width >> 32));
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
