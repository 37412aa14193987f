/* slots CONFIG.json PARTS...
 *
 * Evaluates a training's first step whole, and then for each number PARTS once more as so many ranks would, share after
 * share, each by a step of its own: with batches of other sizes that begin elsewhere. Fails unless every share fills
 * in slots that are its own and no others, with the bits that the whole step found there. Prints a line for each way:
 * shares, batches, lanes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/kinds.h"
#include "helper.h"
#include "load.h"
#include "pipeline/subject.h"
#include "zo/exchange.h"
#include "zo/train.h"

struct tally {
    int64_t shares, batches, lanes;
};

/* Adds the slots [lanes of the step] that the share fills in to `sum`, which must not hold them yet. */
static struct error add_share(struct training *t, struct share share, double *sum, struct tally *tally)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    struct step step;
    TRY(step_new(&step, &t->parts, &t->sources, &t->step.shape, share, false));
    step_put(&step, &t->state);
    struct error e = step_evaluate(&step, 1, &t->draws, notes, false);
    device_read(d, t->slots, tensor_lanes(step.slots, 0, t->lanes));
    e = error_first(e, device_wait(d));
    tally->shares++;
    tally->batches += step.lanes.batches;
    tally->lanes += step.lanes.batches * step.lanes.evaluator.shape.lanes;
    step_free(&step);
    for (int64_t i = 0; i < t->lanes && e.code == ERROR_NONE; i++) {
        if (t->slots[i] != 0 && sum[i] != 0)
            e = error_failed("slot %lld: filled in twice", (long long)i);
        sum[i] += t->slots[i];
    }
    return e;
}

static struct error try_parts(struct training *t, int parts, double *sum)
{
    int64_t pieces = t->balance.work.pieces;
    struct tally tally = {0};
    memset(sum, 0, (size_t)t->lanes * sizeof *sum);
    for (int r = 0; r < parts; r++) {
        struct share share = share_of(pieces, r, parts);
        if (share.count > 0)
            TRY(add_share(t, share, sum, &tally));
    }
    printf("%lld shares, %lld batches, %lld lanes\n", (long long)tally.shares, (long long)tally.batches,
           (long long)tally.lanes);
    return ok();
}

static struct error compare(struct training *t, int argc, char **argv)
{
    double *whole = memory_alloc(t->lanes, sizeof *whole), *sum = memory_alloc(t->lanes, sizeof *sum);
    draws_make(&t->draws, 1);
    struct error e = whole && sum ? try_parts(t, 1, whole) : error_memory("the slots");
    for (int i = 2; i < argc && e.code == ERROR_NONE; i++) {
        e = try_parts(t, atoi(argv[i]), sum);
        for (int64_t k = 0; k < t->lanes && e.code == ERROR_NONE; k++)
            if (memcmp(&sum[k], &whole[k], sizeof *sum) != 0 || whole[k] == 0)
                e = error_failed("slot %lld: %.17g in %s shares, %.17g whole", (long long)k, sum[k], argv[i], whole[k]);
    }
    memory_free(whole);
    memory_free(sum);
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc < 2)
        return error_input("usage: slots CONFIG.json PARTS...");
    struct subject s;
    struct pipeline p;
    TRY(subject_open(&s, &p, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    struct error e = helper_load(&s);
    if (e.code == ERROR_NONE) {
        const struct training_parts parts = subject_parts(&s);
        struct training t;
        e = training_new(&t, &parts, false);
        if (e.code == ERROR_NONE)
            e = compare(&t, argc, argv);
        training_free(&t);
    }
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("slots", argc, argv, work);
}
