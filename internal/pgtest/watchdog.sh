# Starts a server. Stops it and removes its folder when standard input ends, that is,
# when the owner's process ends, however it ends. Run as the server's user:
#
#	sh -c "$(cat watchdog.sh)" pgtest BIN DIR
#
# with the variables password and settings. Standard input contains commands for
# pg_ctl, one a line. Standard output gets the exit status of initdb and then of each
# command. Descriptor 3 is the lock of DIR: the watchdog holds it, and the server must
# not, or a dead watchdog's folder would stay locked.
bin=$1 dir=$2

# Only the end of the owner may end this script. PIPE is ignored because a dead owner
# does not read the output.
trap '' PIPE HUP INT TERM

umask 077
exec 2>>"$dir/log"

{
	printf '%s\n' "$password" >"$dir/password" &&
		"$bin/initdb" --pgdata="$dir/data" --username=postgres --pwfile="$dir/password" \
			--auth-local=trust --auth-host=scram-sha-256 \
			--encoding=UTF8 --no-locale --no-sync &&
		printf '%s' "$settings" >>"$dir/data/postgresql.conf"
} >>"$dir/log" 3>&-
echo $?

while read -r command; do
	# Unquoted, because a command has several words.
	"$bin/pg_ctl" $command --pgdata="$dir/data" --log="$dir/log" --wait --timeout=30 \
		</dev/null >>"$dir/log" 3>&-
	echo $?
done

"$bin/pg_ctl" stop --mode=immediate --pgdata="$dir/data" --wait --timeout=30 >>"$dir/log" 3>&-
rm -rf "$dir"
