package pgtest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

// connect returns the external server at the given address.
func connect(ctx context.Context, address string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The message does not contain the value, which may contain a password.
		return nil, errors.New("pgtest: MDB_TEST_DATABASE_URL is not a URL: set it to one like postgres://user:password@localhost:5432/postgres")
	}

	databases := *u
	s := &Server{socket: &databases, tcp: &databases, admin: address}
	if err := s.identify(ctx); err != nil {
		return nil, fmt.Errorf("pgtest: MDB_TEST_DATABASE_URL: %w", err)
	}
	if s.version < oldest {
		return nil, fmt.Errorf("pgtest: MDB_TEST_DATABASE_URL is a server of PostgreSQL %d: version %d or later is required", s.version, oldest)
	}

	if err := s.announce(ctx); err != nil {
		return nil, err
	}
	if err := s.dropLeftovers(ctx); err != nil {
		return nil, err
	}

	query := u.Query()
	// These parameters would override the path.
	query.Del("dbname")
	query.Del("database")
	query.Set("sslmode", s.sslmode(query.Get("sslmode")))
	databases.RawQuery = query.Encode()

	return s, nil
}

// sslmode returns a mode in which pgx does not try to connect both with TLS and without:
// tests replace the function that connects, and count its calls.
func (s *Server) sslmode(given string) string {
	switch mode := cmp.Or(given, os.Getenv("PGSSLMODE")); mode {
	case "", "allow", "prefer":
		if _, ok := s.alive.PgConn().Conn().(*tls.Conn); ok {
			return "require"
		}
		return "disable"
	default:
		return mode
	}
}

// announce keeps a session open whose application_name shows other runs that this process
// lives. It opens another one if the server has ended it.
func (s *Server) announce(ctx context.Context) error {
	if s.process != nil {
		return nil // nobody else uses this server
	}
	s.aliveLock.Lock()
	defer s.aliveLock.Unlock()
	if s.alive != nil && s.alive.Ping(ctx) == nil {
		return nil
	}

	cfg, err := pgx.ParseConfig(s.admin)
	if err != nil {
		return fmt.Errorf("pgtest: connect to the server: %w", err)
	}
	cfg.RuntimeParams["application_name"] = sessionPrefix + nameProcess
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("pgtest: connect to the server: %w", err)
	}
	if _, err := conn.Exec(ctx, "SET idle_session_timeout = 0"); err != nil {
		_ = conn.Close(ctx)
		return fmt.Errorf("pgtest: keep a session open: %w", err)
	}
	s.alive = conn

	return nil
}

const sessionPrefix = "mdb_test_"

// dropLeftovers drops the databases of processes that have ended, such as their templates.
// No process drops its own templates, because it does not know which of its tests is the
// last one.
func (s *Server) dropLeftovers(ctx context.Context) error {
	// The databases come first: a process has a session before it has databases.
	rows, _ := s.alive.Query(ctx, "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = current_user")
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("pgtest: list databases: %w", err)
	}
	rows, _ = s.alive.Query(ctx, "SELECT substr(application_name, $1), pg_backend_pid() FROM pg_stat_activity WHERE application_name LIKE $2",
		len(sessionPrefix)+1, strings.ReplaceAll(sessionPrefix, "_", `\_`)+"%")
	living := make(map[string]bool)
	var process string
	var pid uint32
	if _, err := pgx.ForEachRow(rows, []any{&process, &pid}, func() error { living[process] = true; return nil }); err != nil {
		return fmt.Errorf("pgtest: list sessions: %w", err)
	}
	if pid != s.alive.PgConn().PID() {
		return nil // a pooler keeps no session for a process, so nobody knows which ones live
	}

	for _, name := range names {
		if owner := processOf(name); owner != "" && !living[owner] {
			// Another run may drop it at the same time.
			_ = s.drop(ctx, name)
		}
	}

	return nil
}
