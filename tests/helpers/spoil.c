/* spoil CONFIG.json WHAT STEP RANK VALUE [resume]
 *
 * Trains as zoodip does, but in that step, on that rank, a number of WHAT becomes VALUE (nan, inf, 1e30 ...): of a loss
 * (that of the rank's last lane; with tangents its slope, and "primal" is the first lane's loss), of the validations
 * from that step on, or of the embedding, the first or the second moment after the update. Without pictures and report.
 */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "device/backend.h"
#include "device/kinds.h"
#include "helper.h"
#include "load.h"
#include "pipeline/subject.h"
#include "zo/train.h"

/* Data for the replaced functions below; they have no other way to get it. */
static struct {
    const char *what;
    long step, now; /* now: steps done */
    bool here, validates;
    double value;
} fault;

static bool due(const char *what)
{
    bool reached = fault.validates ? fault.now >= fault.step - 1 : fault.now == fault.step - 1;
    return fault.here && reached && strcmp(fault.what, what) == 0;
}

/* Names that the linker gives them (CMakeLists.txt). */
void __real_evaluator_forward(const struct evaluator *e);                           // NOLINT
void __wrap_evaluator_forward(const struct evaluator *e);                           // NOLINT
void __real_step_take(const struct step *s, double *gradient, struct state *state); // NOLINT
void __wrap_step_take(const struct step *s, double *gradient, struct state *state); // NOLINT
struct error __real_validation_loss(struct validation *v, const float *embedding, struct share share,
                                    double *loss); // NOLINT
struct error __wrap_validation_loss(struct validation *v, const float *embedding, struct share share,
                                    double *loss); // NOLINT

void __wrap_evaluator_forward(const struct evaluator *e) // NOLINT
{
    __real_evaluator_forward(e);
    if (due(fault.validates ? "validation" : "loss"))
        ((double *)tensor_data(e->losses))[e->shape.lanes - 1] = fault.value;
    if (due("primal"))
        ((double *)tensor_data(e->losses))[0] = fault.value;
}

void __wrap_step_take(const struct step *s, double *gradient, struct state *state) // NOLINT
{
    __real_step_take(s, gradient, state);
    if (due("embedding"))
        state->embedding[state->dim - 1] = (float)fault.value;
    if (due("first"))
        state->m[0] = (float)fault.value;
    if (due("second"))
        state->v[state->dim / 2] = (float)fault.value;
}

struct error __wrap_validation_loss(struct validation *v, const float *embedding, struct share share,
                                    double *loss) // NOLINT
{
    fault.validates = true;
    struct error e = __real_validation_loss(v, embedding, share, loss);
    fault.validates = false;
    return e;
}

static struct error make_no_sample(void *arg, int64_t step, bool missing)
{
    (void)arg;
    (void)step;
    (void)missing;
    return ok();
}

static void count_step(void *arg, const struct metric *metric)
{
    (void)arg;
    fault.now = metric->step;
}

static struct error train(struct subject *s, bool resume)
{
    TRY(helper_load(s));
    const struct training_parts parts = subject_parts(s);
    const struct training_calls calls = {.sample = make_no_sample, .after_step = count_step};
    struct training t;
    TRY(training_new(&t, &parts, resume));
    fault.now = t.state.step;
    struct error e = training_run(&t, &calls);
    training_free(&t);
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc < 6)
        return error_input("usage: spoil CONFIG.json WHAT STEP RANK VALUE [resume]");
    fault.what = argv[2];
    fault.step = atol(argv[3]);
    fault.value = atof(argv[5]);
    struct subject s;
    struct pipeline p;
    TRY(subject_open(&s, &p, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    fault.here = atoi(argv[4]) == comm_rank(comm);
    struct error e = train(&s, argc > 6);
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("spoil", argc, argv, work);
}
