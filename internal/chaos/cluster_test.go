package chaos

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var (
	//go:embed testdata/patroni.yml
	patroniConfig string
	//go:embed testdata/etcd.yml
	etcdConfig string
	//go:embed testdata/haproxy.cfg
	haproxyConfig string
	//go:embed testdata/watchdog.sh
	watchdog string
)

// Timings are those of Patroni, in seconds.
type timings struct{ TTL, LoopWait, RetryTimeout int }

var (
	quick    = timings{20, 2, 3}   // the least time to live that Patroni allows
	defaults = timings{30, 10, 10} // Patroni's defaults
)

// A cluster is three PostgreSQL servers that Patroni manages, with an etcd, on loopback.
// Each program has a folder, in which it works, as do the processes that it starts: this
// is how all processes of a node are found.
type cluster struct {
	dir      string
	watchdog io.WriteCloser
	ended    chan struct{} // closed when the watchdog has ended
	nodes    []*node       // the first one is the primary at the start
	sync     bool
}

// startCluster starts a cluster and installs Message DB in its database mdb. All of its
// processes end with the test, or with the test's process.
func startCluster(t *testing.T, synchronous bool, times timings) *cluster {
	t.Helper()
	needPrograms(t, "patroni", "etcd", "haproxy")
	bin, _, err := pgtest.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Patroni needs more programs than there may be links to.
	postgres, err := filepath.EvalSymlinks(filepath.Join(bin, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "mdb-cluster-") //nolint:usetesting // other users may not enter the test's folder
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{dir: dir, ended: make(chan struct{}), sync: synchronous}
	if err := c.startWatchdog(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)

	ports := freePorts(t, 8)
	etcd := map[string]any{"Dir": filepath.Join(dir, "etcd"), "Client": ports[0], "Peer": ports[1]}
	if err := c.run("etcd", etcdConfig, etcd, "etcd", "--config-file"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), testTimeout, errTimedOut)
	defer cancel()
	if err := awaitEtcd(ctx, ports[0]); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"a", "b", "c"} {
		n := &node{cluster: c, Name: name, dir: filepath.Join(dir, name), Port: ports[2+2*i], API: ports[3+2*i]}
		c.nodes = append(c.nodes, n)
		settings := map[string]any{
			"Name": name, "Dir": n.dir, "Bin": filepath.Dir(postgres), "Port": n.Port, "API": n.API, "Etcd": ports[0], "Password": password,
			"TTL": times.TTL, "LoopWait": times.LoopWait, "RetryTimeout": times.RetryTimeout, "Sync": synchronous,
		}
		if err := c.run(name, patroniConfig, settings, "patroni"); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.awaitReady(ctx); err != nil {
		c.logTails(t)
		t.Fatal(err)
	}
	if err := c.install(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// needPrograms fails the test if a program is missing.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := program(name); err != nil {
			t.Fatalf("%s is not installed (Debian: apt-get install patroni python3-etcd etcd-server haproxy)", name)
		}
	}
	if _, err := os.Readlink("/proc/self/cwd"); err != nil {
		t.Fatalf("this test finds processes as Linux shows them: %v", err)
	}
}

// program returns the path of a program, which may be in a folder that only root has in
// its PATH.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	return path, err
}

// freePorts returns ports of loopback on which nothing listens.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// startWatchdog starts the process that removes the cluster.
func (c *cluster) startWatchdog() error {
	cmd := exec.Command("/bin/sh", "-c", watchdog, "watchdog", c.dir)
	cmd.Dir = "/"
	if err := c.own(cmd, c.dir); err != nil {
		return err
	}
	var err error
	if c.watchdog, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	return nil
}

// own makes the command run as a user that PostgreSQL accepts, in a session of its own,
// and gives that user a path.
func (c *cluster) own(cmd *exec.Cmd, path string) error {
	if err := pgtest.Unprivileged(cmd); err != nil {
		return err
	}
	if attr := cmd.SysProcAttr; attr != nil && attr.Credential != nil {
		if err := os.Chown(path, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return err
		}
	}
	setSession(cmd)
	return nil
}

// run writes the configuration of a program to a folder of its own, and starts the program
// with the configuration's path as its last argument.
func (c *cluster) run(name, config string, settings any, command string, args ...string) error {
	path, err := program(command)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, name)
	file := filepath.Join(dir, "config")
	var text bytes.Buffer
	if err := template.Must(template.New(command).Parse(config)).Execute(&text, settings); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, append(args, file)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin:" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = log, log
	for _, owned := range []string{dir, file} {
		if err := c.own(cmd, owned); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// stop kills all processes of the cluster and removes its folder.
func (c *cluster) stop() {
	_ = c.watchdog.Close()
	<-c.ended
}

// logTails logs the last lines of each program.
func (c *cluster) logTails(t *testing.T) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*", "log"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s:\n%s", log, strings.Join(lines[max(0, len(lines)-100):], "\n"))
	}
}

// awaitReady waits until one node is the primary, both others stream from it, and Patroni
// knows that they may take over: in a synchronous cluster, one of them. It makes the primary
// the first node.
func (c *cluster) awaitReady(ctx context.Context) error {
	const streaming = `SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync'), pg_is_in_recovery()
FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'`
	for {
		for i, n := range c.nodes {
			var standbys, synchronous int
			var recovering bool
			err := n.query(ctx, streaming, &standbys, &synchronous, &recovering)
			if err == nil && !recovering && standbys == len(c.nodes)-1 && (synchronous > 0) == c.sync &&
				c.answering(ctx, "/replica") == standbys && c.answering(ctx, "/sync") == synchronous {
				c.nodes = slices.Insert(slices.Delete(c.nodes, i, i+1), 0, n)
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the cluster does not become ready: %w", context.Cause(ctx))
		}
		tick()
	}
}

// answering returns how many nodes say yes to a question of Patroni's API, which is a path.
func (c *cluster) answering(ctx context.Context, question string) (n int) {
	for _, node := range c.nodes {
		if request(ctx, http.MethodGet, node.API, question, "") == nil {
			n++
		}
	}
	return n
}

// install creates the database, and in the database postgres the table of the poller.
func (c *cluster) install(ctx context.Context) error {
	admin, err := pgx.Connect(ctx, c.nodes[0].url("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(ctx)
	for _, sql := range []string{"CREATE DATABASE mdb", "CREATE TABLE probe (time timestamptz DEFAULT now())"} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return err
		}
	}
	conn, err := c.nodes[0].connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := errors.Join(testdb.InstallOurs(ctx, conn), schema.InstallNotify(ctx, conn)); err != nil {
		return err
	}
	if _, err = conn.Exec(ctx, "CREATE ROLE service LOGIN PASSWORD '"+password+"' IN ROLE message_store"); err != nil {
		return err
	}
	// A standby that does not know the role yet would reject services.
	return c.awaitReplay(ctx, conn)
}

// awaitReplay waits until all standbys have what the primary has, to which conn is.
func (c *cluster) awaitReplay(ctx context.Context, conn *pgx.Conn) error {
	var installed string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&installed); err != nil {
		return err
	}
	for {
		var standbys int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= $1::text::pg_lsn", installed).Scan(&standbys)
		if err != nil || standbys == len(c.nodes)-1 {
			return err
		}
		tick()
	}
}

// url returns the URL for a service that connects to the nodes in their order.
func (c *cluster) url() string {
	hosts := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		hosts[i] = n.address()
	}
	return serviceURL(strings.Join(hosts, ","), "&target_session_attrs=read-write")
}

func serviceURL(hosts, parameters string) string {
	return "postgres://service:" + url.QueryEscape(password) + "@" + hosts + "/mdb?sslmode=disable" + parameters
}

// startHAProxy starts an HAProxy in front of the cluster, and returns its port.
func (c *cluster) startHAProxy(ctx context.Context, t *testing.T) (int, error) {
	t.Helper()
	port := freePorts(t, 1)[0]
	dir := filepath.Join(c.dir, "haproxy")
	settings := map[string]any{"Dir": dir, "Port": port, "Nodes": c.nodes}
	if err := c.run("haproxy", haproxyConfig, settings, "haproxy", "-db", "-f"); err != nil {
		return 0, err
	}
	// At first it takes every server for a primary.
	for {
		up, down, err := haproxyServers(filepath.Join(dir, "stats"))
		if err == nil && up == 1 && down == len(c.nodes)-1 {
			return port, nil
		}
		if ctx.Err() != nil {
			return 0, errors.Join(err, context.Cause(ctx))
		}
		tick()
	}
}

// haproxyServers returns how many servers HAProxy uses and how many it does not.
func haproxyServers(socket string) (up, down int, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "show stat -1 4 -1"); err != nil { // of servers alone
		return 0, 0, err
	}
	text, err := io.ReadAll(conn)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ",")
		if len(fields) < 18 {
			continue
		}
		switch fields[17] {
		case "UP":
			up++
		case "DOWN":
			down++
		}
	}
	return up, down, err
}

func adminURL(port int, database string) string {
	return "postgres://postgres:" + url.QueryEscape(password) + "@" + loopback(port) + "/" + database + "?sslmode=disable"
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// awaitEtcd waits until etcd is healthy. Patroni would wait for much longer.
func awaitEtcd(ctx context.Context, port int) error {
	for {
		err := request(ctx, http.MethodGet, port, "/health", "")
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		tick()
	}
}

// switchover makes Patroni move the primary away from the node.
func (c *cluster) switchover(ctx context.Context, from *node) error {
	err := request(ctx, http.MethodPost, from.API, "/switchover", fmt.Sprintf(`{"leader": %q}`, from.Name))
	return err
}

// request sends a request to a port of loopback. It leaves no connection open.
func request(ctx context.Context, method string, port int, path, body string) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+loopback(port)+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Close = true
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return err
}

// awaitOnePrimary waits until one node is the primary and all others are standbys.
func (c *cluster) awaitOnePrimary(ctx context.Context) error {
	for {
		primaries, standbys := 0, 0
		for _, n := range c.nodes {
			var recovering bool
			switch err := n.query(ctx, "SELECT pg_is_in_recovery()", &recovering); {
			case err != nil:
			case recovering:
				standbys++
			default:
				primaries++
			}
		}
		if primaries == 1 && standbys == len(c.nodes)-1 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d primaries and %d standbys: %w", primaries, standbys, context.Cause(ctx))
		}
		tick()
	}
}
