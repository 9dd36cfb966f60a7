package main

import (
	"cmp"
	"context"
	"regexp"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// connect opens the database given by -d or DATABASE_URL. Without either, the
// connection string is empty, and pgx uses PGHOST and psql's other variables.
func (a *app) connect(ctx context.Context, opts ...mdb.StoreOption) (*mdb.Store, error) {
	return mdb.Connect(ctx, connString(cmp.Or(a.database, a.env("DATABASE_URL"))), opts...)
}

// connString treats anything but a URL or key=value pairs as a database's name, as
// psql does.
func connString(given string) string {
	if given == "" || strings.Contains(given, "=") || strings.Contains(given, "://") {
		return given
	}
	return "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(given) + "'"
}

var connectionLike = regexp.MustCompile(`(?i)^postgres(ql)?:|password\s*=`)

// name rejects a connection string in the place of a stream or a category, because its
// password would be printed or stored.
func name(given string) (mdb.StreamName, error) {
	if connectionLike.MatchString(given) {
		return "", usage("want a name, got a connection string, which belongs to -d")
	}
	return mdb.StreamName(given), nil
}
