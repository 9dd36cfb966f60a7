package mdbcontainer

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/testcontainers/testcontainers-go"
)

// setup is what is done to a server that serves.
type setup struct {
	notify  bool
	scripts []string
}

// option is one that testcontainers-go has no place for.
type option func(*setup)

// Customize does nothing, see [Run].
func (option) Customize(*testcontainers.GenericContainerRequest) error { return nil }

// WithDatabase sets the name of the database, [DefaultDatabase] otherwise.
func WithDatabase(name string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_DB", "the database", name)
}

// WithUsername sets the name of the superuser, postgres otherwise.
func WithUsername(name string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_USER", "the user", name)
}

// WithPassword sets the superuser's password, a random one otherwise.
func WithPassword(password string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_PASSWORD", "the password", password)
}

func variable(name, what, value string) testcontainers.CustomizeRequestOption {
	return func(req *testcontainers.GenericContainerRequest) error {
		if value == "" || strings.ContainsRune(value, 0) {
			return fmt.Errorf("%s is empty or has a zero byte, want some text", what)
		}
		return testcontainers.WithEnv(map[string]string{name: value})(req)
	}
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.$]*$`)

// WithSetting sets a parameter of the server, as in postgresql.conf. Of two settings
// of the same name the later one counts.
func WithSetting(name, value string) testcontainers.ContainerCustomizer {
	return testcontainers.CustomizeRequestOption(func(req *testcontainers.GenericContainerRequest) error {
		if !settingName.MatchString(name) {
			return fmt.Errorf("the setting is %q, want the name of a parameter, such as work_mem", name)
		}
		return testcontainers.WithCmdArgs("-c", name+"="+value)(req)
	})
}

// WithNotify installs the trigger that wakes subscriptions of stores made with
// mdb.WithNotify.
func WithNotify() testcontainers.ContainerCustomizer {
	return option(func(s *setup) { s.notify = true })
}

// WithInitScripts has the SQL of the files run in the database, in their order and
// each as one transaction, after Message DB is installed. They hold plain SQL and
// nothing of psql's own.
func WithInitScripts(files ...string) testcontainers.ContainerCustomizer {
	return option(func(s *setup) { s.scripts = append(s.scripts, files...) })
}

type script struct{ name, sql string }

// read reads the scripts before a container is started in vain.
func (s setup) read() ([]script, error) {
	scripts := make([]script, 0, len(s.scripts))
	for _, name := range s.scripts {
		sql, err := os.ReadFile(name) //nolint:gosec // the caller's tests name their own files
		if err != nil {
			return nil, fmt.Errorf("mdbcontainer: read an init script: %w", err)
		}
		scripts = append(scripts, script{name, string(sql)})
	}
	return scripts, nil
}
