package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// oldest is the first major version the project supports.
const oldest = 14

// Server is a running PostgreSQL.
type Server struct {
	socket  *url.URL
	tcp     *url.URL
	admin   string
	version int
	process *process // nil for an external server

	aliveLock sync.Mutex
	alive     *pgx.Conn // of an external server, see announce
}

// Option configures the server that Start starts.
type Option func(conf *strings.Builder)

// Setting sets a parameter of postgresql.conf. The port and the listen addresses
// cannot be set.
func Setting(name, value string) Option {
	return func(conf *strings.Builder) {
		fmt.Fprintf(conf, "%s = '%s'\n", name, settingEscaper.Replace(value))
	}
}

var settingEscaper = strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`)

// Start starts a new server, which runs until Stop or the end of the process. It
// ignores MDB_TEST_DATABASE_URL.
func Start(ctx context.Context, opts ...Option) (*Server, error) {
	var conf strings.Builder
	// The data need not survive a crash of the machine.
	Setting("fsync", "off")(&conf)
	Setting("full_page_writes", "off")(&conf)
	Setting("message_store.allow_loss", "on")(&conf) // so that Store.Check accepts both
	// Parallel tests have a pool each.
	Setting("max_connections", "200")(&conf)
	Setting("shared_buffers", "128MB")(&conf)
	for _, opt := range opts {
		opt(&conf)
	}

	s, err := start(ctx, &conf, nil)
	if err != nil {
		return nil, err
	}
	if err := s.identify(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: the new server: %w", err), s.Stop())
	}

	return s, nil
}

var defaultServer struct {
	sync.Mutex
	server *Server
	err    error
}

// Default returns the server that the tests of this process use. The first call
// starts it. Later calls also return the error of the first, which would only repeat.
func Default(ctx context.Context) (*Server, error) {
	d := &defaultServer
	d.Lock()
	defer d.Unlock()

	if d.server != nil || d.err != nil {
		return d.server, d.err
	}

	var server *Server
	var err error
	if external := os.Getenv("MDB_TEST_DATABASE_URL"); external != "" {
		server, err = connect(ctx, external)
	} else {
		server, err = Start(ctx)
	}
	if err != nil && ctx.Err() != nil {
		// The caller's context ended. The next caller may have more time.
		return nil, err
	}
	d.server, d.err = server, err

	return server, err
}

// URL returns the URL of a database for the superuser postgres through the Unix
// socket. For an external server it is the same as TCP.
func (s *Server) URL(database string) string {
	return withDatabase(s.socket, database)
}

// TCP returns the URL of a database with a password through loopback TCP. For an
// external server it is MDB_TEST_DATABASE_URL with the database's name.
func (s *Server) TCP(database string) string {
	return withDatabase(s.tcp, database)
}

// Version returns the server's major version.
func (s *Server) Version() int {
	return s.version
}

// Restart restarts the server and returns when it accepts connections again. Mode is
// a shutdown mode of pg_ctl, "fast", which ends all connections, or "immediate", which
// requires crash recovery; or it is "kill", which kills the server's main process.
func (s *Server) Restart(mode string) error {
	if mode != "fast" && mode != "immediate" && mode != "kill" {
		return fmt.Errorf("pgtest: unknown restart mode %q: want fast, immediate or kill", mode)
	}
	if s.process == nil {
		return errors.New("pgtest: the server at MDB_TEST_DATABASE_URL cannot be restarted: use Start")
	}

	if mode == "kill" {
		return s.process.crash()
	}
	// This must not be cancelled, or the next command would read this one's reply.
	return s.process.ctl(context.Background(), "restart --mode="+mode)
}

// Stop stops the server and removes its folder. It does nothing to an external server.
func (s *Server) Stop() error {
	if s.process == nil {
		return nil
	}

	return s.process.stop()
}

// identify checks that the server accepts connections, and reads its version.
func (s *Server) identify(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx)

	var number int
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&number)
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	s.version = number / 10000

	return nil
}

func withDatabase(u *url.URL, database string) string {
	c := *u
	c.Path, c.RawPath = "/"+database, ""

	return c.String()
}
