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

// DefaultDatabase is the name of the database into which Message DB is installed.
const DefaultDatabase = "message_store"

// port is the port of PostgreSQL in the container.
const port = "5432/tcp"

// A Container is a running PostgreSQL with Message DB. All methods, including those of
// testcontainers-go, are safe for concurrent use, except [Container.Snapshot] and
// [Container.Restore].
type Container struct {
	testcontainers.Container

	database, user, password string

	mu     sync.Mutex // guards stores
	stores []*mdb.Store
}

// Run starts a container and installs Message DB. The image is one of PostgreSQL 14 to 18
// that reads POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD, such as postgres:17. Once
// the container is created, Run waits for a minute at most until the server accepts
// connections.
//
// By default the database is [DefaultDatabase], the user is the superuser postgres, and
// the password is random. The server runs without fsync, because nobody needs the data
// after a crash, and with max_connections at 200.
//
// A reused container keeps the database, the user, the password and the settings with
// which it was created. Each Run installs Message DB and the trigger of [WithNotify], if
// they are missing, and runs the scripts of [WithInitScripts]. Concurrent Runs on a reused
// container do so one after the other.
//
// Run returns [ErrNoEngine] if there is no container engine. If it fails later, it removes
// the container unless that is reused. The caller removes a container with
// [Container.Terminate].
func Run(ctx context.Context, image string, opts ...testcontainers.ContainerCustomizer) (*Container, error) {
	if image == "" {
		return nil, errors.New(`mdbcontainer: the image is "", want an image of PostgreSQL, such as postgres:17`)
	}
	req := testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image:        image,
			ExposedPorts: []string{port},
			Env: map[string]string{
				"POSTGRES_DB":       DefaultDatabase,
				"POSTGRES_USER":     "postgres",
				"POSTGRES_PASSWORD": rand.Text(),
				// Without a locale, some images create databases that are not UTF-8.
				"LANG": "C.UTF-8",
			},
			Cmd: []string{"postgres", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "message_store.allow_loss=on", "-c", "max_connections=200"},
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

// identify reads the database, the user and the password from the container, because a
// reused one may have been created with other options.
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

// ConnectionString returns the URL of the database, with the superuser and the password.
// The port may change when the container is restarted.
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

// Store returns a new store with its own pool. It can still be used after
// [Container.Snapshot] and [Container.Restore]. The caller closes it.
func (c *Container) Store(ctx context.Context, opts ...mdb.StoreOption) (*mdb.Store, error) {
	address, err := c.ConnectionString(ctx)
	if err != nil {
		return nil, err
	}
	s, err := mdb.Connect(ctx, address, mdb.StoreOptions(opts))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stores = append(c.stores, s)
	return s, nil
}

// Terminate removes the container. It kills the server without waiting for a shutdown,
// unless an option sets a timeout, because the data is removed, too.
func (c *Container) Terminate(ctx context.Context, opts ...testcontainers.TerminateOption) error {
	return c.Container.Terminate(ctx, append([]testcontainers.TerminateOption{testcontainers.StopTimeout(0)}, opts...)...)
}
