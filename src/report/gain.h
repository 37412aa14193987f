/* report/gain.h
 *
 * What a run has gained, in words, from its curve of validations (report/metrics.h): "17 % below the start; 94 % of that
 * after 400 steps".
 */
#ifndef ZOODIP_REPORT_GAIN_H
#define ZOODIP_REPORT_GAIN_H

#include "report/metrics.h"

struct gain {
    double start, best, last; /* validation losses; NAN where nothing was recorded */
    int64_t best_step;        /* 0: none was below the start's */
    int64_t last_step;
    int64_t looks;     /* validations after the start */
    int64_t most_step; /* the first with at least nine tenths of the best one's gain */
    double most;       /* its share of that, 0 to 1 */
};

struct gain gain_of(const struct metric_table *lines);

/* "step 1400: 0.01772, 17 % below the start's 0.02135; 94 % of that after 400 steps". If no validation is below the
 * start's, it says so, and that the last word is kept. Empty if there are none. */
enum { GAIN_TEXT = 200 };
void gain_text(char text[GAIN_TEXT], const struct gain *gain);

/* That of FOLDER/metrics.jsonl; without looks if it cannot be read. */
struct gain gain_read(const char *folder);

#endif
