/* zo/records.h
 *
 * What a run writes into output.dir while it learns: metrics; the word after every save_every steps and at the end,
 * each time also the best so far (learned_embeds.safetensors, see state_kept) and the same word as the last
 * (learned_embeds-last.safetensors), with output.emb_params also the best one with AUTOMATIC1111's name for the tensor
 * (learned_embeds-emb_params.safetensors); checkpoints. All of this is rank 0's alone. A file that cannot be written does not
 * end the training: that is a warning, and the next save tries again, with the words of earlier steps too. At the end
 * everything is on the disk, or records_finish says what is not.
 */
#ifndef ZOODIP_ZO_RECORDS_H
#define ZOODIP_ZO_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "report/metrics.h"

struct training;

/* A word that is still to be written. */
struct unwritten_word {
    int64_t step;
    float *rows; /* [dim], owned */
};

struct records {
    struct metrics *metrics;
    double last_checkpoint; /* when, by clock_seconds */
    struct error unsaved;   /* why the last save failed, if it did */
    struct unwritten_word *words;
    int64_t word_count, word_room;
};

/* Continues the metrics after the state's step. */
struct error records_open(struct training *t);
void records_close(struct training *t);

/* After a step: metrics, and whatever is due. `last`: no step follows in this run. */
void records_keep(struct training *t, const struct metric *m, bool last);

/* Saves everything now: the run is about to stop. */
void records_save(struct training *t);

/* After the last step, also of a run that had none left: a save that failed is tried once more, and the best word and
 * the last are written if the disk holds none, or others. */
struct error records_finish(struct training *t);

/* The words alone: also allowed after records_close. */
struct error records_keep_words(const struct training *t);

#endif
