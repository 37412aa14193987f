/* queue/queue_page.h
 *
 * index.html of a queue's folder (report/subjects_page.h), from what is known of its jobs.
 */
#ifndef ZOODIP_QUEUE_QUEUE_PAGE_H
#define ZOODIP_QUEUE_QUEUE_PAGE_H

#include "queue/summary.h"

/* Rank 0. Looks into the folders of jobs that are done, for their pictures, and into those of failed ones. */
struct error queue_page_write(const struct results *r);

#endif
