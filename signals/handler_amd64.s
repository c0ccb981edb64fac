//go:build linux

#include "go_asm.h"
#include "textflag.h"

#define SYS_write 1
#define SYS_rt_sigaction 13
#define SYS_getpid 39
#define SYS_kill 62
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

// handle is what the kernel calls, with the signal in DI, its siginfo in SI and
// the context in DX, every signal blocked. It runs on any thread, one that is
// not Go's too, and in the child of a vfork: it uses no Go stack, no g and no
// more than system calls. All registers are its own, since rt_sigreturn
// restores them; SYSCALL itself changes AX, CX and R11.
TEXT handle<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	LEAQ	·handler(SB), R12
	MOVL	DI, R13 // the signal
	MOVQ	SI, BX  // its siginfo

	// A fault in this program: the kernel's si_code is above 0. The runtime's
	// handler finds everything as if the kernel had called it.
	MOVQ	handlerState_fault(R12)(R13*8), AX
	TESTQ	AX, AX
	JZ	caught
	CMPL	si_code(BX), $0
	JLE	caught
	JMP	AX

caught:
	MOVL	$SYS_getpid, AX
	SYSCALL
	CMPQ	AX, handlerState_pid(R12)
	JNE	child

	CMPL	R13, $SIGCHLD
	JEQ	childEvent

	// A failed write of this process: the error says it all.
	CMPL	R13, $SIGPIPE
	JEQ	write
	CMPL	R13, $SIGXFSZ
	JNE	forward
write:
	CMPL	si_code(BX), $SI_USER
	JNE	forward
	CMPL	AX, si_pid(BX)
	JEQ	done

forward:
	XORL	R8, R8 // whether it was forwarded
	MOVBLZX	handlerState_direct(R12)(R13*1), R9
	TESTL	R9, R9
	JZ	report
	CMPL	si_code(BX), $0
	JLE	send
	CMPQ	handlerState_skipKernel(R12), $0
	JNE	report

send:
	LOCK
	INCL	handlerState_sending(R12)(R9*4)
	// The siginfo of sigqueue goes along, for its value. The kernel wants its
	// si_signo to be the signal that is sent.
	XORL	DX, DX
	CMPL	si_code(BX), $SI_QUEUE
	JNE	withoutInfo
	CMPL	R9, R13
	JNE	withoutInfo
	MOVQ	BX, DX
withoutInfo:
	MOVQ	handlerState_target(R12), DI
	MOVL	R9, SI
	MOVQ	handlerState_sendFlags(R12), R10
	MOVL	$SYS_pidfd_send_signal, AX
	SYSCALL
	TESTQ	AX, AX
	JNZ	sent
	MOVL	$1, R8
	LEAL	-1(R9), CX
	MOVL	$1, AX
	SHLQ	CX, AX
	LOCK
	ORQ	AX, handlerState_sent(R12)
sent:
	LOCK
	DECL	handlerState_sending(R12)(R9*4)

report:
	MOVL	R8, si_errno(BX)
	MOVQ	handlerState_reports(R12), DI
	MOVQ	BX, SI
	MOVL	$siginfo_size, DX
	MOVL	$SYS_write, AX
	SYSCALL
	TESTQ	AX, AX
	JGT	done
	LOCK
	INCQ	handlerState_lost(R12)
	TESTL	R8, R8
	JNZ	done
	LEAL	-1(R13), CX
	MOVL	$1, AX
	SHLQ	CX, AX
	LOCK
	ORQ	AX, handlerState_missed(R12)
	JMP	childEvent
done:
	RET

childEvent:
	MOVQ	handlerState_children(R12), DI
	LEAQ	handlerState_one(R12), SI
	MOVL	$8, DX
	MOVL	$SYS_write, AX
	SYSCALL
	RET

	// A child before its exec, on the memory and with the handlers of this
	// process. The runtime has reset only the handlers it knows of. The signal
	// stays pending until this one returns, then its default action is taken.
child:
	MOVL	AX, R9
	MOVL	R13, DI
	LEAQ	handlerState_defaultAction(R12), SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$SYS_rt_sigaction, AX
	SYSCALL
	MOVL	R9, DI
	MOVL	R13, SI
	MOVL	$SYS_kill, AX
	SYSCALL
	RET

TEXT ·handlerPC(SB),NOSPLIT,$0-8
	LEAQ	handle<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
