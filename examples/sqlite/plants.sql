SELECT 'SQLite ' || sqlite_version();
CREATE TABLE plants (name TEXT PRIMARY KEY, home TEXT, height REAL);
INSERT INTO plants VALUES ('fern', 'Tasmania', 0.4), ('orchid', 'Java', 0.6), ('tea', 'Fujian', 1.2);
SELECT name, home FROM plants WHERE height > 0.5 ORDER BY height DESC;
SELECT count(*), round(avg(height), 3) FROM plants;
