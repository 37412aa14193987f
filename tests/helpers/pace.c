/* pace CONFIG.json STEPS SECONDS [RANK=FACTOR | primal=FACTOR]...
 *
 * Training steps in which a lane's evaluation is a sleep of SECONDS, FACTOR times as long on some ranks, or where a
 * picture's lane has tangents, and its loss the mean square of its embedding. Everything else of a step is the real
 * code: draws, slots, sums, update, history. So the time of a step beyond its sleep is what training costs besides the
 * networks. Prints a line of JSON.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/kinds.h"
#include "helper.h"
#include "load.h"
#include "pipeline/subject.h"
#include "zo/train.h"

/* Data for the networks' replacement below; a wrapped function has no other way to get it. */
static struct {
    double seconds;     /* of a lane, on this rank */
    double primal;      /* of a lane that has tangents, in lanes */
    struct tensor zero; /* as long as the word; one copy for all lanes */
} pace;

/* Replaces the networks in the steps (CMakeLists.txt says how); its name is the linker's for that. */
void __wrap_evaluator_forward(const struct evaluator *e); // NOLINT

void __wrap_evaluator_forward(const struct evaluator *e) // NOLINT
{
    int64_t primal = e->shape.tangents ? e->shape.pictures : 0;
    clock_sleep(pace.seconds * ((double)(e->shape.lanes - primal) + pace.primal * (double)primal));
    struct tensor zero = pace.zero;
    zero.lanes = e->shape.lanes;
    op_loss(e->device, e->losses, e->rows, zero, (struct tensor){0}, (struct tensor){0});
}

/* A sleep takes none of the processor's time, and stands for work that does. */
double __wrap_clock_processor(void); // NOLINT

double __wrap_clock_processor(void) // NOLINT
{
    return clock_seconds();
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(struct training *t, double *seconds, int64_t steps)
{
    double sum = 0;
    for (int64_t i = 0; i < steps; i++)
        sum += seconds[i];
    qsort(seconds, (size_t)steps, sizeof *seconds, ascending);
    printf("{\"ranks\": %d, \"lanes\": %lld, \"steps\": %lld, \"mean\": %.9f, \"median\": %.9f, \"tenth\": %.9f, "
           "\"state\": %u, \"shares\": [",
           comm_size(t->parts.comm), (long long)t->lanes, (long long)steps, sum / (double)steps, seconds[steps / 2],
           seconds[steps / 10], state_hash(&t->state));
    for (int r = 0; r < t->balance.size; r++)
        printf("%s%lld", r ? ", " : "", (long long)t->balance.shares[r].count);
    printf("]}\n");
}

static struct error take_steps(struct training *t, int64_t steps)
{
    double *seconds = memory_alloc(steps, sizeof *seconds);
    if (!seconds)
        return error_memory("the times");
    struct error e = ok();
    for (int64_t i = 0; i < steps && e.code == ERROR_NONE; i++) {
        double began = clock_seconds();
        e = training_step(t);
        seconds[i] = clock_seconds() - began;
    }
    if (e.code == ERROR_NONE)
        e = step_get(&t->step, &t->state);
    if (e.code == ERROR_NONE && comm_rank(t->parts.comm) == 0)
        print_times(t, seconds, steps);
    memory_free(seconds);
    return e;
}

static struct error run(struct subject *s, int64_t steps)
{
    struct pipeline *w = s->pipeline;
    TRY(helper_load(s));
    const struct training_parts parts = subject_parts(s);
    TRY(device_alloc_state(w->device, F32, 1, 1, s->config.token.vectors, w->text_config.width, &pace.zero));
    pace.zero.lane_stride = 0;
    struct training t;
    struct error e = training_new(&t, &parts, false);
    if (e.code == ERROR_NONE) {
        e = take_steps(&t, steps);
        training_free(&t);
    }
    device_free_state(w->device, &pace.zero);
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc < 4 || atoll(argv[2]) < 1)
        return error_input("usage: pace CONFIG.json STEPS SECONDS [RANK=FACTOR | primal=FACTOR]...");
    pace.seconds = atof(argv[3]);
    pace.primal = 1;
    for (int i = 4; i < argc; i++) {
        char *factor;
        if (strncmp(argv[i], "primal=", 7) == 0)
            pace.primal = atof(argv[i] + 7);
        else if (strtol(argv[i], &factor, 10) == comm_rank(comm) && *factor == '=')
            pace.seconds *= atof(factor + 1);
    }
    struct subject s;
    struct pipeline p;
    TRY(subject_open(&s, &p, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    struct error e = run(&s, atoll(argv[2]));
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("pace", argc, argv, work);
}
