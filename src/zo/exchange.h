/* zo/exchange.h
 *
 * How ranks exchange a step, in one of two ways:
 *
 *     on the devices: a rank alone, or ranks whose GPUs are joined. One program evaluates, sums the losses (op_sum),
 *                     updates, and sends rank 0's embedding to all (op_broadcast).
 *     by the host:    evaluate ─► comm_sum: all get all losses ─► all make the same update ─► comm_broadcast: rank 0's
 *                     embedding to all. Between steps, faster ranks take over lanes of slower ones (zo/rebalance.h).
 *
 * Losses (with tangents, losses and slopes) have slots: every rank fills in its own and leaves the others zero, so the
 * sum is exact in any order. The slots after them are notes, summed along with them.
 */
#ifndef ZOODIP_ZO_EXCHANGE_H
#define ZOODIP_ZO_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct training;

/* The notes: how many ranks were asked to stop, how many failed, and rank 0's wish for the last step (zo/ending.h). By
 * the host, each rank's time per unit of cost (share_cost) follows. */
enum { NOTE_STOP, NOTE_FAILED, NOTE_LAST, NOTES };

/* True if one program does a whole step: for a lone rank, or with joined GPUs. */
bool exchange_on_devices(const struct training *t);

/* Step k from its draws to the new embedding, in the state and on every device; t->slots then hold all ranks' losses
 * and slopes, t->gradient the gradient. A loss or slope, or a number made of them, that is not finite is an error
 * (zo/finite.h), the same on all ranks. t->wish is this rank's note; the sum is in the slots. rates as struct update
 * has them. *stop: some rank was asked to stop. */
struct error exchange_step(struct training *t, int64_t k, const double rates[3], bool *stop);

#endif
