#include "zo/exchange.h"

#include <string.h>

#include "base/clock.h"
#include "cluster/signals.h"
#include "zo/finite.h"
#include "zo/gauss_newton.h"
#include "zo/train.h"

bool exchange_on_devices(const struct training *t)
{
    bool method = t->parts.config->optim.method == METHOD_ADAM; // the other one is computed by the host
    return method && (comm_size(t->parts.comm) == 1 || device_joined(t->parts.device));
}

/* -------------------------------------------------------------------------------- on the devices */

static struct error step_on_devices(struct training *t, int64_t k, const double rates[3], bool *stop)
{
    struct device *d = t->parts.device;
    double notes[NOTES] = {[NOTE_STOP] = signals_should_stop(), [NOTE_LAST] = (double)t->wish};
    struct error e = step_whole(&t->step, k, &t->draws, notes, rates);
    const double *slots = step_read(&t->step);
    e = error_first(e, device_wait(d));
    memcpy(t->slots, slots, (size_t)(t->lanes + NOTES) * sizeof *slots);
    // a single rank may still stop; one of several only if all know
    *stop = t->slots[t->lanes + NOTE_STOP] > 0 || (!device_joined(d) && signals_should_stop());
    TRY(comm_abort(t->parts.comm, e)); // the others may be waiting in their GPUs, where no message reaches them
    // the same on all, whose slots are equal and whose updates are; a rank alone with it is named when the others miss it
    TRY(finite_losses(t, k));
    step_take(&t->step, t->gradient, &t->state);
    return finite_update(t, k);
}

/* -------------------------------------------------------------------------------- by the host */

/* Evaluates this rank's lanes into its slots. *seconds: per unit of cost (share_cost); 0 if shares must stay. */
static struct error evaluate_share(struct training *t, int64_t k, double *seconds)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    double began = clock_seconds();
    struct error e = step_evaluate(&t->step, k, &t->draws, notes, false);
    device_read(d, t->slots, t->step.slots);
    e = error_first(e, device_wait(d));
    // a GPU's memory is planned for its share, so the share must stay the same
    bool measured = t->step.share.count > 0 && device_identity(d) == 0;
    *seconds = measured ? (clock_seconds() - began) / share_cost(&t->balance.work, t->step.share) : 0;
    return e;
}

/* Sums the losses of all ranks' lanes, *stop, and, after the notes, each rank's time per unit of cost (`seconds`
 * is this one's). A rank that failed says so beside its losses, so that all end together. */
static struct error sum_slots(struct training *t, struct error mine, double seconds, bool *stop)
{
    double *paces = t->slots + t->lanes + NOTES;
    memset(paces, 0, (size_t)comm_size(t->parts.comm) * sizeof *paces);
    paces[comm_rank(t->parts.comm)] = seconds;
    t->slots[t->lanes + NOTE_STOP] = signals_should_stop();
    t->slots[t->lanes + NOTE_LAST] = (double)t->wish;
    t->slots[t->lanes + NOTE_FAILED] = mine.code != ERROR_NONE;
    TRY(comm_sum(t->parts.comm, t->slots, t->lanes + NOTES + comm_size(t->parts.comm)));
    if (t->slots[t->lanes + NOTE_FAILED] > 0)
        return comm_agree(t->parts.comm, mine);
    *stop = t->slots[t->lanes + NOTE_STOP] > 0;
    return ok();
}

static struct error update(struct training *t, int64_t k, const double rates[3])
{
    if (t->parts.config->optim.method == METHOD_GAUSS_NEWTON) {
        TRY(gauss_newton_step(t, t->lr));
        return finite_update(t, k);
    }
    device_write(t->parts.device, t->step.slots, t->slots);
    struct error e = step_update(&t->step, rates);
    step_read(&t->step);
    TRY(error_first(e, device_wait(t->parts.device)));
    step_take(&t->step, t->gradient, &t->state);
    return finite_update(t, k);
}

static struct error step_by_host(struct training *t, int64_t k, const double rates[3], bool *stop)
{
    struct comm *comm = t->parts.comm;
    double seconds;
    struct error e = evaluate_share(t, k, &seconds);
    TRY(sum_slots(t, e, seconds, stop));
    TRY(finite_losses(t, k));
    TRY(comm_agree(comm, update(t, k, rates)));
    // rank 0's embedding for all: mixed hardware cannot drift apart
    TRY(comm_broadcast(comm, t->state.embedding, t->state.dim * (int64_t)sizeof *t->state.embedding, 0));
    device_write(t->parts.device, t->step.embedding, t->state.embedding);
    return ok();
}

struct error exchange_step(struct training *t, int64_t k, const double rates[3], bool *stop)
{
    return exchange_on_devices(t) ? step_on_devices(t, k, rates, stop) : step_by_host(t, k, rates, stop);
}
