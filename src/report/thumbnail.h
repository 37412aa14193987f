/* report/thumbnail.h
 *
 * thumbnail.jpg, a run as a row of a queue's page shows it: the first photo, and up to three of the learned word's
 * pictures beside it; without prompts, photos alone. Small (about 10 KB), since a page shows hundreds.
 */
#ifndef ZOODIP_REPORT_THUMBNAIL_H
#define ZOODIP_REPORT_THUMBNAIL_H

#include "report/report.h"

/* Of the file: squares of this side, this far apart. */
enum { THUMBNAIL_SIDE = 96, THUMBNAIL_GAP = 4, THUMBNAIL_PICTURES = 4 };

/* FOLDER/thumbnail.jpg, if there is any picture to show. */
struct error thumbnail_write(const char *folder, const struct report_pictures *pictures);

#endif
