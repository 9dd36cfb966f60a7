package main

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// connect opens the database given by -d or DATABASE_URL. Without either, the
// connection string is empty, and pgx uses PGHOST and psql's other variables.
func (a *app) connect(ctx context.Context, opts ...mdb.ConnectOption) (*mdb.Store, error) {
	given, err := connString(cmp.Or(a.database, a.env("DATABASE_URL")))
	if err != nil {
		return nil, err
	}
	if a.pooler {
		opts = append(opts, mdb.BehindPooler())
	}
	return mdb.Connect(ctx, given, opts...)
}

// connString treats anything but a URL or key=value pairs as a database's name, as
// psql does. It rejects what looks like a URL without its scheme, because the server would
// print the password as a part of the name.
func connString(given string) (string, error) {
	if given == "" || strings.Contains(given, "=") || strings.Contains(given, "://") {
		return given, nil
	}
	if strings.Contains(given, "@") {
		return "", usage("want postgres://… as the URL of a database; a name that contains an @ is given as dbname=…")
	}
	return "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(given) + "'", nil
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

// nameOption is name for the value of an option.
func nameOption(given string) (mdb.StreamName, error) {
	n, err := name(given)
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		return "", errors.New(wrong.text)
	}
	return n, err
}
