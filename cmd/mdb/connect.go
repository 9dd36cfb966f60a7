package main

import (
	"cmp"
	"context"
	"regexp"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// connect opens the database that -d or DATABASE_URL names. Without either the
// string is empty, and pgx goes by PGHOST and its like.
func (a *app) connect(ctx context.Context, opts ...mdb.StoreOption) (*mdb.Store, error) {
	return mdb.Connect(ctx, connString(cmp.Or(a.database, a.env("DATABASE_URL"))), opts...)
}

// connString takes what is neither a URL nor key=value pairs for a database's name,
// as psql does.
func connString(given string) string {
	if given == "" || strings.Contains(given, "=") || strings.Contains(given, "://") {
		return given
	}
	return "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(given) + "'"
}

var connectionLike = regexp.MustCompile(`(?i)^postgres(ql)?:|password\s*=`)

// name refuses a connection string where a stream or a category is named: it would
// be taken for one, and its password be printed or stored.
func name(given string) (mdb.StreamName, error) {
	if connectionLike.MatchString(given) {
		return "", usage("given a connection string, want a name; -d takes the connection string")
	}
	return mdb.StreamName(given), nil
}
