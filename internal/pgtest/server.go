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
	process *process // nil for a server of others
}

// Option changes the server that Start starts.
type Option func(conf *strings.Builder)

// Setting sets a parameter of postgresql.conf. The port and the addresses are
// not for options to choose.
func Setting(name, value string) Option {
	return func(conf *strings.Builder) {
		fmt.Fprintf(conf, "%s = '%s'\n", name, settingEscaper.Replace(value))
	}
}

var settingEscaper = strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`)

// Start starts a server of its own, whatever MDB_TEST_DATABASE_URL says, which
// runs until Stop or the end of the process.
func Start(ctx context.Context, opts ...Option) (*Server, error) {
	var conf strings.Builder
	// Nobody needs the data after a crash of the machine.
	Setting("fsync", "off")(&conf)
	Setting("full_page_writes", "off")(&conf)
	// Packages with parallel tests hold a pool each.
	Setting("max_connections", "200")(&conf)
	Setting("shared_buffers", "128MB")(&conf)
	for _, opt := range opts {
		opt(&conf)
	}

	s, err := start(ctx, &conf)
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

// Default returns the server that this process's tests use. The first call
// starts it; a failure is kept as well, since it would not pass by itself.
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
		// The caller had no time left, the next one may have.
		return nil, err
	}
	d.server, d.err = server, err

	return server, err
}

// URL returns the address of a database as the superuser postgres, by the Unix
// socket. For a server of others it is that of TCP.
func (s *Server) URL(database string) string {
	return withDatabase(s.socket, database)
}

// TCP returns the address of a database with a password, by loopback TCP. For a
// server of others it is MDB_TEST_DATABASE_URL with that database.
func (s *Server) TCP(database string) string {
	return withDatabase(s.tcp, database)
}

// Version returns the server's major version.
func (s *Server) Version() int {
	return s.version
}

// Restart restarts the server with a shutdown mode of pg_ctl: "fast" ends all
// connections, "immediate" leaves the work to crash recovery. With "kill" the
// server gets no chance to stop at all. It returns when the server takes
// connections again.
func (s *Server) Restart(mode string) error {
	if mode != "fast" && mode != "immediate" && mode != "kill" {
		return fmt.Errorf("pgtest: unknown restart mode %q: give fast, immediate or kill", mode)
	}
	if s.process == nil {
		return errors.New("pgtest: the server of MDB_TEST_DATABASE_URL is not restarted: use Start")
	}

	if mode == "kill" {
		return s.process.crash()
	}
	// Not to be cancelled: the answer would be taken for the next command's.
	return s.process.ctl(context.Background(), "restart --mode="+mode)
}

// Stop stops the server and removes its folder. It leaves a server of others
// alone.
func (s *Server) Stop() error {
	if s.process == nil {
		return nil
	}

	return s.process.stop()
}

// identify proves that the server takes connections and learns its version.
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
