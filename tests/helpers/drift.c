/* drift CONFIG.json STEP RANK
 *
 * A training run in which one bit of Adam's moments flips on rank RANK after step STEP, as failing memory would do. The
 * ranks' comparison every tau steps must notice.
 */
#include <stdlib.h>

#include "device/kinds.h"
#include "files/file.h"
#include "helper.h"
#include "load.h"
#include "pipeline/pipeline.h"
#include "pipeline/subject.h"
#include "zo/train.h"

struct drift {
    struct training training;
    struct comm *comm;
    int64_t step;
    int rank;
};

static struct error no_sample(void *arg, int64_t step, bool missing)
{
    (void)arg;
    (void)step;
    (void)missing;
    return ok();
}

static void flip(void *arg, const struct metric *metric)
{
    struct drift *f = arg;
    struct training *t = &f->training;
    if (metric->step != f->step || comm_rank(f->comm) != f->rank)
        return;
    struct error e = step_get(&t->step, &t->state);
    unsigned char *bytes = (unsigned char *)t->state.m;
    bytes[0] ^= 1;
    if (e.code == ERROR_NONE)
        device_write(t->parts.device, t->step.m, t->state.m);
}

static struct error run(struct drift *f, struct subject *s)
{
    TRY(folder_make(s->config.output.dir));
    TRY(helper_load(s));
    const struct training_parts parts = subject_parts(s);
    TRY(training_new(&f->training, &parts, false));
    const struct training_calls calls = {.sample = no_sample, .after_step = flip, .arg = f};
    struct error e = training_run(&f->training, &calls);
    training_free(&f->training);
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc != 4)
        return error_input("usage: drift CONFIG.json STEP RANK");
    struct drift f = {.comm = comm, .step = atoll(argv[2]), .rank = atoi(argv[3])};
    struct subject s;
    struct pipeline p;
    TRY(subject_open(&s, &p, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    struct error e = run(&f, &s);
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("drift", argc, argv, work);
}
