/* files/attempts.h
 *
 * Reading from a disk that may be on a network: what fails for a reason that may pass (a stale handle, a server that does
 * not answer, too many open files) is tried again a few times, with growing pauses of three seconds in all.
 *
 *     for (struct attempts a = {0};;) {
 *         struct error e = read_it();
 *         if (!attempts_again(&a, e))
 *             return e;
 *     }
 */
#ifndef ZOODIP_FILES_ATTEMPTS_H
#define ZOODIP_FILES_ATTEMPTS_H

#include <stdbool.h>

#include "base/error.h"

struct attempts {
    int failed;
};

/* Whether to try again after this outcome of an attempt: if so, it has said so and waited, on whichever rank this is.
 * Only an ERROR_FAILED is a reason to. */
bool attempts_again(struct attempts *a, struct error e);

#endif
