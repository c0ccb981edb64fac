export function getServerSideProps() {
  return { props: { pid: process.pid } };
}

export default function Home({ pid }) {
  return <p>{pid}</p>;
}
