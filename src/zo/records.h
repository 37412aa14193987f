/* zo/records.h
 *
 * What a run writes into output.dir while it learns: metrics, the word after every save_every steps and at the
 * end, checkpoints. All of this is rank 0's alone. A file that cannot be written does not end the training: that is a
 * warning, and the next save tries again.
 */
#ifndef ZOODIP_ZO_RECORDS_H
#define ZOODIP_ZO_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "report/metrics.h"

struct training;

struct records {
    struct metrics *metrics;
    double last_checkpoint; /* when, by clock_seconds */
    bool unsaved;           /* the last attempt to write something failed */
};

/* Continues the metrics after the state's step. */
struct error records_open(struct training *t);
void records_close(struct training *t);

/* After a step: metrics, and whatever is due. `last`: no step follows in this run. */
void records_keep(struct training *t, const struct metric *m, bool last);

/* Saves everything now: the run is about to stop. */
void records_save(struct training *t);

/* An error if the last attempt to save failed. */
struct error records_saved(const struct training *t);

#endif
