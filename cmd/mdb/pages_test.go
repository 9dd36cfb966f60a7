package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// commandsOf returns the commands that a page of docs shows without what they print.
func commandsOf(t *testing.T, page string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^ {4,}((?:mdb|createdb|psql|cat|DATABASE_URL=…) .*)$`).FindAllStringSubmatch(string(text), -1) {
		commands = append(commands, match[1])
	}
	if len(commands) == 0 {
		t.Fatalf("%s shows no command", page)
	}
	return commands
}

// succeed runs a command, which must succeed.
func (sh *shell) succeed(t *testing.T, command string) {
	t.Helper()
	if out, status := sh.run(t, command); status != 0 {
		t.Fatalf("$ %s\n%s[%d]", command, out, status)
	}
}

// TestPLProxyDocumentation runs the commands of docs/proxies.md, which make a proxy of two databases, and then those of
// docs/scaling.md, which move a category.
func TestPLProxyDocumentation(t *testing.T) {
	t.Parallel()
	shard0, shard1, proxy := pgtest.Own(t), pgtest.Own(t), pgtest.Own(t)
	testdb.NeedPLProxy(t, proxy)
	var replace []string
	for name, server := range map[string]*pgtest.Server{"shard0": shard0, "shard1": shard1, "proxy": proxy} {
		replace = append(replace, "postgres://"+name+"/events", "'"+server.TCP("events")+"'", "host="+name+" ", testdb.Address(t, server)+" ")
	}
	here := strings.NewReplacer(replace...)
	for _, server := range []*pgtest.Server{shard0, shard1} {
		testdb.Exec(t, testdb.Session(t, server.URL("postgres")), "CREATE DATABASE events")
	}
	cfg, err := pgx.ParseConfig(proxy.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	sh := &shell{folder: t.TempDir(), env: environment("PGHOST="+cfg.Host, fmt.Sprint("PGPORT=", cfg.Port), "PGUSER="+cfg.User, "PGPASSWORD="+cfg.Password,
		"SHARD_PASSWORD="+testdb.ProxyPassword, "SHARD0="+shard0.TCP("events"), "SHARD1="+shard1.TCP("events"), "PROXY="+proxy.TCP("events"))}
	for _, command := range commandsOf(t, "proxies.md") {
		if strings.HasPrefix(command, "mdb proxy-sql ") { // what the page says in words
			for _, server := range []*pgtest.Server{shard0, shard1} {
				testdb.Exec(t, testdb.Session(t, server.URL("events")), "ALTER ROLE message_store LOGIN PASSWORD '"+testdb.ProxyPassword+"'")
			}
		}
		sh.succeed(t, here.Replace(command))
	}

	on := func(server *pgtest.Server) int {
		t.Helper()
		return testdb.Value[int](t, testdb.Session(t, server.URL("events")), "SELECT count(*) FROM message_store.messages")
	}
	testdb.Exec(t, testdb.Session(t, proxy.URL("events")), "INSERT INTO message_store_proxy.placement (category, shard) VALUES ('account', 0)")
	sh.succeed(t, `mdb -d "$PROXY" write -empty account-1 Opened && mdb -d "$PROXY" write -empty account-2 Opened`)
	if a, b := on(shard0), on(shard1); a != 2 || b != 0 {
		t.Errorf("the shards have %d and %d messages, want 2 and 0", a, b)
	}
	for _, command := range commandsOf(t, "scaling.md") {
		sh.succeed(t, command)
	}
	if a, b := on(shard0), on(shard1); a != 0 || b != 2 {
		t.Errorf("after the move the shards have %d and %d messages, want 0 and 2", a, b)
	}
}

// TestArchiveDocumentation runs the commands of docs/retention.md that write and read an archive.
func TestArchiveDocumentation(t *testing.T) {
	t.Parallel()
	sh := newShell(t, "$OTHER_URL")
	if err := pgtest.Build(sh.folder, "../../examples/archive"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(sh.folder, "archive"), filepath.Join(sh.folder, "program")); err != nil {
		t.Fatal(err)
	}
	sh.succeed(t, `mdb write -empty account-1 Opened && mdb write -empty account-2 Opened && mdb write -empty account-1 Closed`)
	for _, command := range commandsOf(t, "retention.md") {
		if run, ok := strings.CutPrefix(command, "DATABASE_URL=… go run ./examples/archive "); ok {
			sh.succeed(t, "./program "+run+" -once") // it would not end
		} else {
			sh.succeed(t, `DATABASE_URL="$OTHER_URL" && `+command)
		}
	}
	messages := func(database string) string {
		t.Helper()
		out, status := sh.run(t, "mdb -d "+database+" export -category account 2>/dev/null")
		if status != 0 || strings.Count(out, "\n") != 3 {
			t.Fatalf("exported [%d]\n%s", status, out)
		}
		return out
	}
	if got, want := messages(`"$OTHER_URL"`), messages(`"$DATABASE_URL"`); got != want {
		t.Errorf("imported\n%s\nwant\n%s", got, want)
	}
}
