package main

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// explainConnect adds an example to the remedy if the server does not know a parameter of the
// connection string. PostgreSQL's drivers send it all parameters that they do not know themselves.
func explainConnect(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == "42704" {
		return fmt.Errorf("%w; Prisma, for example, adds schema, pgbouncer and connection_limit", err)
	}
	return err
}

// explain adds the option that continues after a message that cannot be read.
func (sel *selection) explain(err error) error {
	var unreadable *mdb.UnreadableError
	if !errors.As(err, &unreadable) {
		return err
	}
	position := unreadable.Position
	if sel.isCategory() {
		position = unreadable.GlobalPosition
	}
	return fmt.Errorf("%w; -after %d continues after it", err, position)
}
