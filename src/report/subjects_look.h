/* report/subjects_look.h
 *
 * What a queue's page (report/subjects_page.h) looks like, and its script: sorting, searching, and loading the page
 * anew while the queue runs. The page's policy allows this script alone, by its hash, and styles.
 */
#ifndef ZOODIP_REPORT_SUBJECTS_LOOK_H
#define ZOODIP_REPORT_SUBJECTS_LOOK_H

extern const char subjects_style[], subjects_script[];

/* SHA-256 of the script, in base64. A test compares them and says what it should be. */
extern const char subjects_script_hash[];

/* Seconds after which a page is loaded anew. The script says it too. */
enum { SUBJECTS_REFRESH = 30 };

#endif
