#include "files/attempts.h"

#include "base/clock.h"
#include "base/log.h"

enum { MOST_AGAIN = 5 };
static const double FIRST_PAUSE = 0.1; /* seconds; each is twice the one before */

bool attempts_again(struct attempts *a, struct error e)
{
    // a full disk has no more room some seconds later
    if (e.code != ERROR_FAILED || error_is_full_disk(e) || a->failed == MOST_AGAIN)
        return false;
    double pause = FIRST_PAUSE * (1 << a->failed++);
    log_warning("%s; trying again in %.1f s (%d of %d)", e.text, pause, a->failed, MOST_AGAIN);
    clock_sleep(pause);
    return true;
}
