//go:build linux

#include "go_asm.h"
#include "textflag.h"

#define SYS_write 64
#define SYS_kill 129
#define SYS_rt_sigaction 134
#define SYS_getpid 172
#define SYS_pidfd_send_signal 424

#define SIGPIPE 13
#define SIGCHLD 17
#define SIGXFSZ 25

#define SI_USER 0
#define SI_QUEUE -1

#define si_errno 4
#define si_code 8
#define si_pid 16
#define siginfo_size 128

// handle is handler_amd64.s in other words; the reasons are there. The kernel
// gives the signal in R0, its siginfo in R1 and the context in R2. SVC changes
// R0 alone. R28 stays as it is: the runtime's handler finds its g there.
TEXT handle<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	$·handler(SB), R19
	MOVWU	R0, R20 // the signal
	MOVD	R1, R21 // its siginfo
	MOVW	si_code(R21), R22

	ADD	R20<<3, R19, R3
	MOVD	handlerState_fault(R3), R4
	CBZ	R4, caught
	CMPW	$0, R22
	BLE	caught
	JMP	(R4)

caught:
	MOVD	$SYS_getpid, R8
	SVC
	MOVD	R0, R23
	MOVD	handlerState_pid(R19), R3
	CMP	R3, R23
	BNE	child

	CMPW	$SIGCHLD, R20
	BEQ	childEvent

	CMPW	$SIGPIPE, R20
	BEQ	write
	CMPW	$SIGXFSZ, R20
	BNE	forward
write:
	CMPW	$SI_USER, R22
	BNE	forward
	MOVW	si_pid(R21), R3
	CMPW	R3, R23
	BEQ	done

forward:
	MOVD	$0, R24 // whether it was forwarded
	ADD	R20, R19, R3
	MOVBU	handlerState_direct(R3), R25
	CBZ	R25, report
	CMPW	$0, R22
	BLE	send
	MOVD	handlerState_skipKernel(R19), R3
	CBNZ	R3, report

send:
	ADD	R25<<2, R19, R6
	ADD	$handlerState_sending, R6
begin:
	LDAXRW	(R6), R4
	ADDW	$1, R4
	STLXRW	R4, (R6), R5
	CBNZW	R5, begin

	MOVD	$0, R2
	CMPW	$SI_QUEUE, R22
	BNE	withoutInfo
	CMPW	R20, R25
	BNE	withoutInfo
	MOVD	R21, R2
withoutInfo:
	MOVD	handlerState_target(R19), R0
	MOVD	R25, R1
	MOVD	handlerState_sendFlags(R19), R3
	MOVD	$SYS_pidfd_send_signal, R8
	SVC
	CBNZ	R0, sent
	MOVD	$1, R24
	SUB	$1, R25, R3
	LSL	R3, R24, R3
	ADD	$handlerState_sent, R19, R7
mark:
	LDAXR	(R7), R4
	ORR	R3, R4
	STLXR	R4, (R7), R5
	CBNZW	R5, mark
sent:
	LDAXRW	(R6), R4
	SUBW	$1, R4
	STLXRW	R4, (R6), R5
	CBNZW	R5, sent

report:
	MOVW	R24, si_errno(R21)
	MOVD	handlerState_reports(R19), R0
	MOVD	R21, R1
	MOVD	$siginfo_size, R2
	MOVD	$SYS_write, R8
	SVC
	CMP	$0, R0
	BGT	done
	ADD	$handlerState_lost, R19, R6
lose:
	LDAXR	(R6), R4
	ADD	$1, R4
	STLXR	R4, (R6), R5
	CBNZW	R5, lose
	CBNZ	R24, done
	SUB	$1, R20, R3
	MOVD	$1, R4
	LSL	R3, R4, R3
	ADD	$handlerState_missed, R19, R7
miss:
	LDAXR	(R7), R4
	ORR	R3, R4
	STLXR	R4, (R7), R5
	CBNZW	R5, miss
	B	childEvent
done:
	RET

childEvent:
	MOVD	handlerState_children(R19), R0
	ADD	$handlerState_one, R19, R1
	MOVD	$8, R2
	MOVD	$SYS_write, R8
	SVC
	RET

child:
	MOVD	R20, R0
	ADD	$handlerState_defaultAction, R19, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigaction, R8
	SVC
	MOVD	R23, R0
	MOVD	R20, R1
	MOVD	$SYS_kill, R8
	SVC
	RET

TEXT ·handlerPC(SB),NOSPLIT,$0-8
	MOVD	$handle<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET
