/* tests/helpers/load.h
 *
 * What comes before a training, for helpers that make one: the subject's pictures are encoded, the networks loaded.
 */
#ifndef ZOODIP_TESTS_HELPERS_LOAD_H
#define ZOODIP_TESTS_HELPERS_LOAD_H

#include "pipeline/subject.h"

/* Collective, like its parts. Afterwards subject_parts has all that training_new needs. */
static inline struct error helper_load(struct subject *s)
{
    TRY(subject_encode(s));
    TRY(pipeline_load(s->pipeline));
    return subject_start(s);
}

#endif
