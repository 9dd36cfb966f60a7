package mdbcontainer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/testcontainers/testcontainers-go"

	"github.com/messagedb-go/messagedb/mdb"
)

// DefaultDatabase is the database that Message DB is installed in.
const DefaultDatabase = "message_store"

// port is where PostgreSQL listens in the container.
const port = "5432/tcp"

// A Container is a running PostgreSQL with Message DB. Its methods, and those that it
// has from testcontainers-go, are safe for concurrent use, but for [Container.Snapshot]
// and [Container.Restore].
type Container struct {
	testcontainers.Container

	database, user, password string

	mu     sync.Mutex
	stores []*mdb.Store
}

// Run starts a container of a PostgreSQL image, postgres:17 or any other one that
// takes POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD, of PostgreSQL 14 to 18. It
// waits until the server takes connections, for a minute at most after the image is
// there, and installs Message DB.
//
// The database is [DefaultDatabase], the user postgres, a superuser, and the password
// a random one, unless options say otherwise. The server does not sync its files,
// because nobody needs them after a crash, and takes 200 connections.
//
// A container that is reused keeps the database, user, password and settings that it
// was made with. Message DB, the trigger of [WithNotify] and the scripts of
// [WithInitScripts] are installed by each Run, one after the other.
//
// Where no container engine answers the error is [ErrNoEngine]. A container that
// fails to start, or to be set up, is removed unless it is reused; the caller removes
// one that has been returned by Terminate.
func Run(ctx context.Context, image string, opts ...testcontainers.ContainerCustomizer) (*Container, error) {
	if image == "" {
		return nil, errors.New(`mdbcontainer: the image is "", want that of a PostgreSQL, such as postgres:17`)
	}
	req := testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image:        image,
			ExposedPorts: []string{port},
			Env: map[string]string{
				"POSTGRES_DB":       DefaultDatabase,
				"POSTGRES_USER":     "postgres",
				"POSTGRES_PASSWORD": rand.Text(),
				// Images differ in what they make of no locale, and some of it is not UTF-8.
				"LANG": "C.UTF-8",
			},
			Cmd: []string{"postgres", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"},
		},
		Started: true,
	}
	var own setup
	for _, opt := range opts {
		if o, ok := opt.(option); ok {
			o(&own)
		}
		if err := opt.Customize(&req); err != nil {
			return nil, fmt.Errorf("mdbcontainer: %w", err)
		}
	}
	scripts, err := own.read()
	if err != nil {
		return nil, err
	}
	if err := checkEngine(ctx, req.ProviderType); err != nil {
		return nil, err
	}

	inner, err := testcontainers.GenericContainer(ctx, req)
	c := &Container{Container: inner}
	if err == nil {
		err = c.identify(ctx)
	}
	if err == nil {
		err = c.await(ctx)
	}
	if err == nil {
		err = c.install(ctx, own.notify, scripts)
	}
	if err != nil {
		err = fmt.Errorf("mdbcontainer: start %s: %w", image, err)
		if inner != nil && !req.Reuse {
			err = errors.Join(err, c.Terminate(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	return c, nil
}

// identify learns what the container was made with, which for one that is reused is
// not what the options say.
func (c *Container) identify(ctx context.Context) error {
	made, err := c.Inspect(ctx)
	if err != nil {
		return fmt.Errorf("inspect the container: %w", err)
	}
	env := map[string]string{}
	for _, variable := range made.Config.Env {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	c.database, c.user, c.password = env["POSTGRES_DB"], env["POSTGRES_USER"], env["POSTGRES_PASSWORD"]
	return nil
}

// ConnectionString returns the URL of the database, as its superuser. It holds the
// password. After a restart of the container the port may be another one.
func (c *Container) ConnectionString(ctx context.Context) (string, error) {
	return c.url(ctx, c.database)
}

func (c *Container) url(ctx context.Context, database string) (string, error) {
	host, err := c.PortEndpoint(ctx, port, "")
	if err != nil {
		return "", fmt.Errorf("mdbcontainer: find the published port: %w", err)
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(c.user, c.password),
		Host:     host,
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String(), nil
}

// Store returns a new store on the database, with a pool of its own, which outlives
// [Container.Snapshot] and [Container.Restore]. The caller closes it.
func (c *Container) Store(ctx context.Context, opts ...mdb.StoreOption) (*mdb.Store, error) {
	address, err := c.ConnectionString(ctx)
	if err != nil {
		return nil, err
	}
	s, err := mdb.Connect(ctx, address, opts...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stores = append(c.stores, s)
	return s, nil
}

// Terminate stops and removes the container. Unless an option gives it time, the
// server gets none to shut down, as its data goes with it.
func (c *Container) Terminate(ctx context.Context, opts ...testcontainers.TerminateOption) error {
	return c.Container.Terminate(ctx, append([]testcontainers.TerminateOption{testcontainers.StopTimeout(0)}, opts...)...)
}
