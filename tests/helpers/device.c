/* device CHECK
 *
 * Checks a promise of device/device.h or base/pool.h that needs no reference package: see the table in main. Prints
 * nothing and exits 0 if it holds.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/pool.h"
#include "device/kinds.h"
#include "helper.h"

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return error_failed("line %d: expected %s", __LINE__, #condition);                                         \
    } while (0)

/* -------------------------------------------------------------------------------- arena */

enum { LIVE = 12, STEPS = 300 };

struct scene {
    struct device *device;
    bool running;
    unsigned seed;
    int extra; /* makes the body take one tensor more */
};

static unsigned next(unsigned *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

/* Does the tensor still hold nothing but `tag`? */
static bool holds(struct device *d, struct tensor t, int32_t tag)
{
    int32_t *all = memory_alloc(t.channels, sizeof *all);
    device_read(d, all, t);
    bool same = device_wait(d).code == ERROR_NONE;
    for (int64_t i = 0; i < t.channels; i++)
        same = same && all[i] == tag;
    memory_free(all);
    return same;
}

static void fill(struct device *d, struct tensor t, int32_t tag)
{
    int32_t *all = memory_alloc(t.channels, sizeof *all);
    for (int64_t i = 0; i < t.channels; i++)
        all[i] = tag;
    device_write(d, t, all);
    memory_free(all);
}

/* Takes and drops at random; each tensor is filled when taken and must be unchanged when dropped. */
static struct error scramble(void *arg)
{
    struct scene *s = arg;
    struct tensor live[LIVE] = {0};
    int32_t tags[LIVE] = {0};
    unsigned state = s->seed;
    for (int step = 0; step < STEPS + LIVE; step++) {
        int slot = step < STEPS ? (int)(next(&state) >> 8) % LIVE : step - STEPS;
        if (live[slot].base) {
            EXPECT(!s->running || holds(s->device, live[slot], tags[slot]));
            device_free(s->device, &live[slot]);
        } else if (step < STEPS) {
            live[slot] = device_alloc(s->device, I32, 1, 1, 1, 1 + (next(&state) >> 8) % 3000);
            tags[slot] = step;
            if (s->running)
                fill(s->device, live[slot], step);
        }
    }
    for (int i = 0; i < s->extra; i++) {
        struct tensor t = device_alloc(s->device, I32, 1, 1, 1, 5);
        device_free(s->device, &t);
    }
    return ok();
}

static struct error check_arena(struct device *d)
{
    struct scene scenes[3] = {{.device = d, .seed = 1}, {.device = d, .seed = 2}, {.device = d, .seed = 3}};
    struct program *programs[3];
    for (int i = 0; i < 3; i++) {
        TRY(program_new(d, scramble, &scenes[i], &programs[i]));
        scenes[i].running = true;
        EXPECT(program_bytes(programs[i]) > 3000 * 4 && program_bytes(programs[i]) <= LIVE * 3100 * 4);
    }
    for (int i = 0; i < 6; i++)
        TRY(program_run(programs[i % 3]));
    for (int i = 0; i < 3; i++)
        program_free(programs[i]);
    return device_wait(d);
}

static struct error check_deviation(struct device *d)
{
    struct scene s = {.device = d, .seed = 1};
    struct program *p;
    TRY(program_new(d, scramble, &s, &p));
    s.extra = 1;
    TRY(program_run(p));
    program_free(p);
    EXPECT(strstr(device_wait(d).text, "different tensors than in its dry pass"));
    return ok();
}

static struct error one_after_another(void *arg)
{
    struct device *d = arg;
    for (int i = 0; i < 9; i++) {
        struct tensor t = device_alloc(d, F32, 1, 1, 1, 1024);
        device_free(d, &t);
    }
    return ok();
}

static struct error check_reuse(struct device *d)
{
    struct program *p;
    TRY(program_new(d, one_after_another, d, &p));
    EXPECT(program_bytes(p) == 4096);
    program_free(p);
    return ok();
}

static struct error check_bytes(struct device *d, struct error (*body)(void *), int64_t bytes)
{
    struct program *p;
    TRY(program_new(d, body, d, &p));
    EXPECT(program_bytes(p) == bytes);
    program_free(p);
    return ok();
}

/* The largest tensor, placed first, would push `always` up and leave a gap below it that none of the others fits. */
static struct error one_through_all(void *arg)
{
    struct device *d = arg;
    struct tensor first = device_alloc(d, F32, 1, 1, 1, 4 * 32), always = device_alloc(d, F32, 1, 1, 1, 3 * 32);
    struct tensor second = device_alloc(d, F32, 1, 1, 1, 2 * 32);
    device_free(d, &first);
    device_free(d, &second);
    struct tensor largest = device_alloc(d, F32, 1, 1, 1, 5 * 32);
    device_free(d, &largest);
    device_free(d, &always);
    return ok();
}

static struct error check_gaps(struct device *d)
{
    return check_bytes(d, one_through_all, (4 + 3 + 2) * 32 * 4);
}

enum { MANY = 200000 };

/* Two at a time, small next to large, and one that outlives them all. */
static struct error many_tensors(void *arg)
{
    struct device *d = arg;
    struct tensor always = device_alloc(d, F32, 1, 1, 1, 32);
    for (int i = 0; i < MANY; i++) {
        struct tensor large = device_alloc(d, F32, 1, 1, 1, 1024), small = device_alloc(d, F32, 1, 1, 1, 64);
        device_free(d, &large);
        device_free(d, &small);
    }
    device_free(d, &always);
    return ok();
}

static struct error check_many(struct device *d)
{
    return check_bytes(d, many_tensors, (1024 + 64 + 32) * 4);
}

static struct error check_outside(struct device *d)
{
    struct tensor t = device_alloc(d, F32, 1, 1, 1, 4);
    op_copy(d, t, t, (struct tensor){0});
    EXPECT(strstr(device_wait(d).text, "outside a program"));
    return device_wait(d);
}

/* -------------------------------------------------------------------------------- errors */

static struct error check_first_error(struct device *d)
{
    struct tensor a, b;
    TRY(device_alloc_state(d, F32, 2, 1, 3, 4, &a));
    TRY(device_alloc_state(d, F32, 2, 1, 3, 5, &b));
    op_copy(d, a, b, (struct tensor){0});
    op_draw(d, a, b, 0, 0);
    struct error first = device_wait(d), second = device_wait(d);
    device_free_state(d, &a);
    device_free_state(d, &b);
    EXPECT(strstr(first.text, "op_copy: shapes do not fit: F32[2, 1, 3, 4] from F32[2, 1, 3, 5]"));
    EXPECT(second.code == ERROR_NONE);
    return ok();
}

static struct error check_kinds(struct device *d)
{
    (void)d;
    struct device *none;
    EXPECT(device_open(&none, device_kinds(), "cuda", 0, 1).code == ERROR_BAD_INPUT);
    EXPECT(device_open(&none, device_kinds(), "tpu", 0, 1).code == ERROR_BAD_INPUT);
    return ok();
}

/* -------------------------------------------------------------------------------- store */

/* One rank of a node packs, another uses the result without packing. */
static struct error check_store(struct device *d)
{
    enum { OUT = 37, IN = 21 };
    static float numbers[OUT * IN], bias[OUT], x[IN], ours[OUT], theirs[OUT];
    for (int i = 0; i < OUT * IN; i++)
        numbers[i] = (float)(i % 17) - 8;
    for (int i = 0; i < IN; i++)
        x[i] = (float)i;
    struct weight_source s = {
        .data = numbers, .bias = bias, .out = OUT, .in = IN, .kh = 1, .kw = 1, .type = F32, .bias_type = F32};
    struct weight *measured, *packed, *shared, *unused;
    device_store_begin(d, NULL, 0, false);
    TRY(weight_new(d, &s, 8, &measured));
    int64_t bytes = device_store_bytes(d);
    void *memory = memory_alloc(bytes, 1);
    device_store_begin(d, memory, bytes, true);
    TRY(weight_new(d, &s, 8, &packed));
    EXPECT(device_store_bytes(d) == bytes);
    s.data = NULL;
    device_store_begin(d, memory, bytes, false);
    TRY(weight_new(d, &s, 8, &shared));
    device_store_begin(d, memory, bytes - 1, false);
    EXPECT(weight_new(d, &s, 8, &unused).code == ERROR_FAILED);

    struct tensor in, out;
    TRY(device_alloc_state(d, F32, 1, 1, 1, IN, &in));
    TRY(device_alloc_state(d, F32, 1, 1, 1, OUT, &out));
    device_write(d, in, x);
    op_linear(d, out, in, packed, (struct epilogue){0});
    device_read(d, ours, out);
    op_linear(d, out, in, shared, (struct epilogue){0});
    device_read(d, theirs, out);
    TRY(device_wait(d));
    EXPECT(ours[3] != 0 && memcmp(ours, theirs, sizeof ours) == 0);
    device_free_state(d, &in);
    device_free_state(d, &out);
    weight_free(measured);
    weight_free(packed);
    weight_free(shared);
    memory_free(memory);
    return ok();
}

/* -------------------------------------------------------------------------------- pool */

enum { TASKS = 1000, THREADS = 5 };

struct tally {
    atomic_int runs[TASKS];
    atomic_int strangers; /* tasks with an invalid thread number */
};

static void count_task(void *arg, int64_t i, int thread)
{
    struct tally *t = arg;
    t->runs[i]++;
    if (thread < 0 || thread >= THREADS)
        t->strangers++;
}

static struct error check_pool(struct device *d)
{
    (void)d;
    static struct tally t;
    struct pool *pool;
    TRY(pool_open(&pool, THREADS));
    int64_t expected[TASKS] = {0};
    for (int64_t job = 0; job < 2000; job++) {
        int64_t count = job * 7 % (TASKS + 1);
        pool_run(pool, count, count_task, &t);
        for (int64_t i = 0; i < count; i++)
            expected[i]++;
    }
    pool_close(pool);
    for (int64_t i = 0; i < TASKS; i++)
        EXPECT(t.runs[i] == expected[i]);
    EXPECT(t.strangers == 0);
    return ok();
}

static struct error check_threads(struct device *d)
{
    (void)d;
    setenv("OMP_NUM_THREADS", "7", 1);
    EXPECT(pool_default_threads(2) == 7);
    unsetenv("OMP_NUM_THREADS");
    int all = pool_default_threads(1);
    EXPECT(all >= 1 && pool_default_threads(10000) >= 1 && pool_default_threads(2) <= all);
    return ok();
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct error (*check)(struct device *device);
    } checks[] = {
        {"arena", check_arena},     {"deviation", check_deviation},     {"reuse", check_reuse}, {"many", check_many},
        {"outside", check_outside}, {"first-error", check_first_error}, {"kinds", check_kinds}, {"store", check_store},
        {"pool", check_pool},       {"threads", check_threads},         {"gaps", check_gaps},
    };
    struct error e = error_input("usage: device CHECK");
    for (size_t i = 0; argc == 2 && i < sizeof checks / sizeof *checks; i++) {
        struct device *device;
        if (strcmp(argv[1], checks[i].name) != 0)
            continue;
        e = device_open(&device, device_kinds(), "cpu", 0, 2);
        if (e.code != ERROR_NONE)
            break;
        e = checks[i].check(device);
        device_close(device);
    }
    return helper_end("device", e);
}
