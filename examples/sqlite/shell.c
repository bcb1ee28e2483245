/* A shell: runs the SQL of its second argument on the database of its first, and prints what comes of it. */
#include <stdio.h>
#include <stdlib.h>

#include "sqlite3.h"

/* Longest file of SQL in bytes. */
#define SQL_BYTES_MAX (16 << 20)

static int print_row(void *unused, int columns, char **values, char **names) {
  (void)unused, (void)names;
  for (int i = 0; i < columns; i++) printf("%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
  putchar('\n');
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s DATABASE FILE.sql\n", argv[0]);
    return 2;
  }
  FILE *file = fopen(argv[2], "rb");
  char *sql = malloc(SQL_BYTES_MAX + 1);
  if (!file || !sql) {
    perror(argv[2]);
    return 1;
  }
  size_t length = fread(sql, 1, SQL_BYTES_MAX, file);
  sql[length] = 0;
  fclose(file);
  sqlite3 *database = NULL;
  char *problem = NULL;
  int failed = sqlite3_open(argv[1], &database) != SQLITE_OK ||
               sqlite3_exec(database, sql, print_row, NULL, &problem) != SQLITE_OK;
  if (failed) fprintf(stderr, "%s\n", problem ? problem : sqlite3_errmsg(database));
  sqlite3_close(database);
  return failed;
}
