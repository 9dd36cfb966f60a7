package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
)

// connect returns the external server at the given address.
func connect(ctx context.Context, address string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The message does not contain the value, which may contain a password.
		return nil, errors.New("pgtest: MDB_TEST_DATABASE_URL is not a URL: set it to one like postgres://user:password@localhost:5432/postgres")
	}

	// These parameters would override the path.
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	databases := *u
	databases.RawQuery = query.Encode()

	s := &Server{socket: &databases, tcp: &databases, admin: address}
	if err := s.identify(ctx); err != nil {
		return nil, fmt.Errorf("pgtest: MDB_TEST_DATABASE_URL: %w", err)
	}
	if s.version < oldest {
		return nil, fmt.Errorf("pgtest: MDB_TEST_DATABASE_URL is a server of PostgreSQL %d: version %d or later is required", s.version, oldest)
	}

	if err := s.dropLeftovers(ctx); err != nil {
		return nil, err
	}

	return s, nil
}

// dropLeftovers drops the databases that killed runs left, and the templates of all
// earlier runs. No run drops its own templates, because a process does not know which
// of its tests is the last one.
func (s *Server) dropLeftovers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return fmt.Errorf("pgtest: connect to the server: %w", err)
	}
	defer conn.Close(ctx)

	rows, _ := conn.Query(ctx, "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = current_user")
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("pgtest: list databases: %w", err)
	}

	for _, name := range names {
		if leftover(name, time.Now()) {
			// Another run may drop it at the same time.
			_ = s.drop(ctx, name)
		}
	}

	return nil
}
