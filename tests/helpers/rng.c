/* rng philox C0 C1 C2 C3 K0 K1             (hexadecimal) four words
 * rng words SEED STEP STREAM FIRST COUNT    numbers of a stream, raw on stdout: u32
 * rng normals SEED STEP STREAM FIRST COUNT  the same as standard normals: f32
 * rng integers SEED STEP STREAM FIRST COUNT LOW HIGH   the same in [LOW, HIGH): i32
 * rng even SEED STEP STREAM FIRST COUNT LOW HIGH       of the even sequence, which has neither step nor stream: i32
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/rng_core.h"

static int philox(char **argv)
{
    uint32_t words[6], out[4];
    for (int i = 0; i < 6; i++)
        words[i] = (uint32_t)strtoul(argv[i], NULL, 16);
    rng_philox(words, words + 4, out);
    printf("%08x %08x %08x %08x\n", out[0], out[1], out[2], out[3]);
    return 0;
}

static int numbers(const char *kind, char **argv, int bounds)
{
    uint64_t seed = strtoull(argv[0], NULL, 10), step = strtoull(argv[1], NULL, 10);
    uint64_t first = strtoull(argv[3], NULL, 10), count = strtoull(argv[4], NULL, 10);
    uint32_t stream = (uint32_t)strtoul(argv[2], NULL, 10);
    float *out = memory_alloc((int64_t)count, sizeof *out);
    if (!out)
        return 1;
    if (strcmp(kind, "normals") == 0)
        rng_normals(seed, step, stream, first, (int64_t)count, out);
    for (uint64_t i = 0; i < count && strcmp(kind, "normals") != 0; i++) {
        uint32_t word = rng_word(seed, step, stream, first + i);
        if (strcmp(kind, "even") == 0)
            word = (uint32_t)rng_even(seed, first + i, atoi(argv[5]), atoi(argv[6]));
        else if (bounds)
            word = (uint32_t)rng_integer(seed, step, stream, first + i, atoi(argv[5]), atoi(argv[6]));
        memcpy(out + i, &word, sizeof word);
    }
    int good = fwrite(out, sizeof *out, count, stdout) == count;
    memory_free(out);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 8 && strcmp(argv[1], "philox") == 0)
        return philox(argv + 2);
    if (argc == 7 || (argc == 9 && (strcmp(argv[1], "integers") == 0 || strcmp(argv[1], "even") == 0)))
        return numbers(argv[1], argv + 2, argc == 9);
    fprintf(stderr, "usage: rng philox|words|normals|integers|even ...\n");
    return 2;
}
