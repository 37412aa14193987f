#include "commands/plan.h"

#include "commands/gallery.h"
#include "commands/subject.h"
#include "zo/train.h"

/* The peak since the last call. */
static void end_phase(struct memory_plan *plan, enum phase phase, struct device *d)
{
    struct memory_use use = device_memory(d);
    if (use.most > plan->phases[phase].most)
        plan->phases[phase] = use;
    if (use.most > plan->most)
        plan->most = use.most;
    device_memory_mark(d);
}

/* last: no subject follows, as in gallery_draw. */
static struct error go_through(struct memory_plan *plan, struct subject *s, bool last)
{
    struct workshop *w = s->workshop;
    TRY(subject_encode(s));
    end_phase(plan, PHASE_ENCODE, w->device);
    TRY(workshop_load(w));
    TRY(subject_start(s));
    const struct training_parts parts = subject_parts(s);
    struct training t;
    TRY(training_new(&t, &parts));
    struct error e = ok();
    if (s->config.output.sample_every > 0)
        e = gallery_sample(s, t.state.embedding, 0);
    training_rest(&t);
    end_phase(plan, PHASE_TRAIN, w->device);
    struct gallery gallery;
    if (e.code == ERROR_NONE) {
        e = gallery_draw(&gallery, s, t.state.embedding, last);
        if (e.code == ERROR_NONE)
            gallery_free(&gallery);
    }
    end_phase(plan, PHASE_DRAW, w->device);
    training_free(&t);
    return e;
}

struct error plan_memory(struct memory_plan *plan, const char *config, const struct option_values *sets,
                         struct comm *comm)
{
    *plan = (struct memory_plan){0};
    struct subject s;
    struct workshop w;
    TRY(subject_open(&s, &w, config, sets->items, sets->count, comm, true));
    struct error e = go_through(plan, &s, true);
    subject_close(&s);
    return e;
}

struct error plan_job(struct memory_plan *plan, struct config *config, struct comm *comm)
{
    struct workshop w;
    struct subject s = {0};
    struct error e = workshop_open(&w, config, comm, true);
    if (e.code == ERROR_NONE)
        e = subject_read(&s, &w, config);
    e = comm_agree(comm, e);
    if (e.code == ERROR_NONE)
        e = workshop_join(&w, s.config.cluster.timeout);
    if (e.code == ERROR_NONE)
        e = go_through(plan, &s, false);
    subject_free(&s);
    workshop_close(&w);
    return e;
}

void plan_print(const struct memory_plan *plan, FILE *to)
{
    static const char *const names[PHASES] = {"encode pictures", "train", "draw pictures"};
    fprintf(to, "%-16s %13s %13s %10s %9s %13s %9s\n", "bytes on a GPU", "weights", "activations", "state", "scratch",
            "in all", "MB");
    for (int i = 0; i < PHASES; i++) {
        const struct memory_use *u = &plan->phases[i];
        fprintf(to, "%-16s %13lld %13lld %10lld %9lld %13lld %9.1f\n", names[i], (long long)u->peak[MEMORY_WEIGHTS],
                (long long)u->peak[MEMORY_ACTIVATIONS], (long long)u->peak[MEMORY_STATE],
                (long long)u->peak[MEMORY_SCRATCH], (long long)u->most, (double)u->most / 1e6);
    }
}

struct error plan_fits(const struct memory_plan *plan, struct device *device)
{
    int64_t left, used;
    TRY(device_memory_left(device, &left, &used));
    int64_t held = device_memory(device).total;
    if (plan->most - held <= left)
        return ok();
    return error_input(
        "%s: the run takes %.0f MB, %.0f MB are free; lower data.resolution, zo.n or optim.batch_size, or "
        "set quant.bits to 4",
        device_name(device), (double)plan->most / 1e6, (double)left / 1e6);
}
